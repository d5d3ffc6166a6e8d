// Answers questions about policies with containers/image, which podman and skopeo use.
//
// Each line of the input is a question in JSON, each line of the output its answer.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/signature/signer"
	"go.podman.io/image/v5/signature/sigstore"
	"go.podman.io/image/v5/transports/alltransports"
	"go.podman.io/image/v5/types"
)

type question struct {
	Policy      string // a file
	RegistriesD string // a directory
	Image       string // TRANSPORT:NAME; without one, the policy is only parsed
	Instance    string // the digest of one manifest of an index
	Passphrase  string // of a key of sigstore
	SignBy      string // the file of a private key: the image is signed where it is
}

type answer struct {
	Error   string
	Private []byte
	Public  []byte
}

func contextOf(asked question) *types.SystemContext {
	return &types.SystemContext{
		RegistriesDirPath:           asked.RegistriesD,
		DockerInsecureSkipTLSVerify: types.OptionalBoolTrue,
	}
}

func check(asked question) error {
	policy, err := signature.NewPolicyFromFile(asked.Policy)
	if err != nil || asked.Image == "" {
		return err
	}
	verdicts, err := signature.NewPolicyContext(policy)
	if err != nil {
		return err
	}
	name, err := alltransports.ParseImageName(asked.Image)
	if err != nil {
		return err
	}
	source, err := name.NewImageSource(context.Background(), contextOf(asked))
	if err != nil {
		return err
	}
	defer source.Close()
	var instance *digest.Digest
	if asked.Instance != "" {
		wanted := digest.Digest(asked.Instance)
		instance = &wanted
	}
	allowed, err := verdicts.IsRunningImageAllowed(
		context.Background(), image.UnparsedInstance(source, instance))
	if err == nil && !allowed {
		err = fmt.Errorf("not allowed")
	}
	return err
}

func sign(asked question) error {
	key := sigstore.WithPrivateKeyFile(asked.SignBy, []byte(asked.Passphrase))
	signing, err := sigstore.NewSigner(key)
	if err != nil {
		return err
	}
	defer signing.Close()
	everything, err := signature.NewPolicyFromFile(asked.Policy)
	if err != nil {
		return err
	}
	verdicts, err := signature.NewPolicyContext(everything)
	if err != nil {
		return err
	}
	name, err := alltransports.ParseImageName(asked.Image)
	if err != nil {
		return err
	}
	system := contextOf(asked)
	_, err = copy.Image(context.Background(), verdicts, name, name, &copy.Options{
		Signers: []*signer.Signer{signing}, SourceCtx: system, DestinationCtx: system,
	})
	return err
}

func reply(asked question) answer {
	var told answer
	var err error
	switch {
	case asked.SignBy != "":
		err = sign(asked)
	case asked.Policy != "":
		err = check(asked)
	default:
		var keys *sigstore.GenerateKeyPairResult
		keys, err = sigstore.GenerateKeyPair([]byte(asked.Passphrase))
		if err == nil {
			told.Private, told.Public = keys.PrivateKey, keys.PublicKey
		}
	}
	if err != nil {
		told.Error = err.Error()
	}
	return told
}

func main() {
	input := bufio.NewReader(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	for {
		line, err := input.ReadBytes('\n')
		if err != nil {
			return
		}
		var asked question
		if err := json.Unmarshal(line, &asked); err != nil {
			panic(err)
		}
		if err := output.Encode(reply(asked)); err != nil {
			panic(err)
		}
	}
}
