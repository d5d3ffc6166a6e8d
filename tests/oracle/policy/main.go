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

	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/signature/sigstore"
	"go.podman.io/image/v5/transports/alltransports"
	"go.podman.io/image/v5/types"
	"github.com/opencontainers/go-digest"
)

type question struct {
	Policy      string // a file
	RegistriesD string // a directory
	Image       string // TRANSPORT:NAME; without one, the policy is only parsed
	Instance    string // the digest of one manifest of an index
	Passphrase  string // of a new pair of keys; without a policy
}

type answer struct {
	Error   string
	Private []byte
	Public  []byte
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
	system := &types.SystemContext{
		RegistriesDirPath:           asked.RegistriesD,
		DockerInsecureSkipTLSVerify: types.OptionalBoolTrue,
	}
	source, err := name.NewImageSource(context.Background(), system)
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

func reply(asked question) answer {
	var told answer
	var err error
	if asked.Policy == "" {
		var made sigstore.GenerateKeyPairResult
		var keys *sigstore.GenerateKeyPairResult
		keys, err = sigstore.GenerateKeyPair([]byte(asked.Passphrase))
		if err == nil {
			made = *keys
		}
		told.Private, told.Public = made.PrivateKey, made.PublicKey
	} else {
		err = check(asked)
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
