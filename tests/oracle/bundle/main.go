// Validates OCI bundles as "oci-runtime-tool validate" does, without its download of the schema.
//
// Arguments: the directory of the schema, and that of a bundle. Each complaint is a line.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	multierror "github.com/hashicorp/go-multierror"
	"github.com/opencontainers/runtime-tools/validate"
	"github.com/xeipuuv/gojsonschema"
)

func schema(directory, bundle string) error {
	content, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return err
	}
	var document any
	if err := json.Unmarshal(content, &document); err != nil {
		return err
	}
	reference := "file://" + filepath.Join(directory, "config-schema.json")
	result, err := gojsonschema.Validate(
		gojsonschema.NewReferenceLoader(reference), gojsonschema.NewGoLoader(document))
	if err != nil {
		return err
	}
	var found *multierror.Error
	for _, one := range result.Errors() {
		found = multierror.Append(found, errors.New("schema: "+one.String()))
	}
	return found.ErrorOrNil()
}

func main() {
	directory, bundle := os.Args[1], os.Args[2]
	validator, err := validate.NewValidatorFromPath(bundle, true, "linux")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var found *multierror.Error
	for _, check := range []func() error{
		validator.CheckPlatform, validator.CheckRoot, validator.CheckMandatoryFields,
		validator.CheckSemVer, validator.CheckMounts, validator.CheckProcess,
		validator.CheckLinux, validator.CheckAnnotations, validator.CheckHooks,
		func() error { return schema(directory, bundle) },
	} {
		found = multierror.Append(found, check())
	}
	if found == nil {
		return
	}
	for _, one := range found.Errors {
		if one != nil {
			fmt.Println(strings.SplitN(one.Error(), "\n", 2)[0])
		}
	}
}
