package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/meshpilot/pilot/pkg/identity/inspect"
	"go.yaml.in/yaml/v3"
)

// accountAnnotation names the service account that a Secret is for.
const accountAnnotation = "istio.io/service-account.name"

// manifest is what counts of a Secret, or of a List of them.
type manifest struct {
	Kind     string
	Type     string
	Metadata struct {
		Name, Namespace string
		Annotations     map[string]string
	}
	Data       map[string]string
	StringData map[string]string `yaml:"stringData"`
	Items      []yaml.Node
}

// readSecrets reads the Secrets with certificates out of a YAML text. No error
// repeats what is in them.
func readSecrets(name string, content []byte) ([]inspect.Set, error) {
	var sets []inspect.Set
	for decoder := yaml.NewDecoder(bytes.NewReader(content)); ; {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: neither PEM nor YAML", name)
		}
		if sets, err = appendSecrets(sets, &node); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(sets) == 0 {
		return nil, fmt.Errorf("%s: no Secret of type istio.io/key-and-cert or istio.io/ca-root in it", name)
	}
	return sets, nil
}

func appendSecrets(sets []inspect.Set, node *yaml.Node) ([]inspect.Set, error) {
	var m manifest
	if err := node.Decode(&m); err != nil {
		return nil, fmt.Errorf("line %d: no object as Kubernetes has it", node.Line)
	}
	for i := range m.Items {
		var err error
		if sets, err = appendSecrets(sets, &m.Items[i]); err != nil {
			return nil, err
		}
	}
	if m.Kind != "Secret" {
		return sets, nil
	}
	files := map[string][]byte{}
	for key, text := range m.Data {
		content, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: Secret %s: data[%s] is not base64", node.Line, m.Metadata.Name, key)
		}
		files[key] = content
	}
	for key, text := range m.StringData {
		files[key] = []byte(text)
	}
	set, found := inspect.Files(files, nil)
	if !found {
		return sets, nil
	}
	set.Name = "Secret " + m.Metadata.Name
	if m.Metadata.Namespace != "" {
		set.Name = "Secret " + m.Metadata.Namespace + "/" + m.Metadata.Name
	}
	if account := m.Metadata.Annotations[accountAnnotation]; account != "" && m.Metadata.Namespace != "" {
		set.Namespace, set.Account = m.Metadata.Namespace, account
	}
	return append(sets, set), nil
}
