package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/tools/go/packages"
	"sigs.k8s.io/controller-tools/pkg/crd"
	"sigs.k8s.io/controller-tools/pkg/genall"
	"sigs.k8s.io/controller-tools/pkg/loader"
)

// maxDescription keeps the texts that Kubernetes' own types bring short.
const maxDescription = 400

// schemas are the CustomResourceDefinitions of the Go types below api, by the
// name of their file.
func schemas() (map[string][]byte, error) {
	length, omit := maxDescription, true
	var generator genall.Generator = crd.Generator{MaxDescLen: &length, OmitToolVersion: &omit}
	runtime, err := genall.Generators{&generator}.ForRootsWithConfig(&packages.Config{}, "./api/...")
	if err != nil {
		return nil, err
	}
	out := memory{}
	runtime.OutputRules.Default = out
	runtime.ErrorWriter = os.Stderr
	if runtime.Run() {
		return nil, errors.New("the schemas cannot be generated (see above)")
	}
	files := map[string][]byte{}
	for name, text := range out {
		files[name] = text.Bytes()
	}
	if len(files) == 0 {
		return nil, errors.New("there is no kind below api")
	}
	return files, nil
}

// memory is where the generator writes.
type memory map[string]*bytes.Buffer

// Open is what genall.OutputRule wants.
func (m memory) Open(_ *loader.Package, path string) (io.WriteCloser, error) {
	b := &bytes.Buffer{}
	m[filepath.Base(path)] = b
	return closer{b}, nil
}

type closer struct{ io.Writer }

// Close does nothing.
func (closer) Close() error { return nil }
