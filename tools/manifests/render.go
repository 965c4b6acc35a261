package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	release "helm.sh/helm/v4/pkg/release/v1/util"
	"sigs.k8s.io/yaml"
)

// rendered is the chart as a file of values renders it, in the order in which
// it can be applied.
func rendered(values, namespace string) (string, error) {
	chart, err := loader.Load(chartDir)
	if err != nil {
		return "", err
	}
	given, err := readValues(values)
	if err != nil {
		return "", err
	}
	options := common.ReleaseOptions{Name: "pilot", Namespace: namespace, Revision: 1, IsInstall: true}
	top, err := util.ToRenderValues(chart, given, options, nil)
	if err != nil {
		return "", err
	}
	// What is applied without Helm must not say that it is Helm's.
	top["Release"].(map[string]any)["Service"] = "pilot"
	files, err := engine.Render(chart, top)
	if err != nil {
		return "", err
	}
	for name := range files {
		if strings.HasPrefix(filepath.Base(name), "_") || strings.HasSuffix(name, ".txt") {
			delete(files, name)
		}
	}
	_, manifests, err := release.SortManifests(files, nil, release.InstallOrder)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, m := range manifests {
		fmt.Fprintf(&out, "---\n%s\n", strings.TrimSpace(m.Content))
	}
	return out.String(), nil
}

func readValues(path string) (map[string]any, error) {
	values := map[string]any{}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return values, nil
}

// lintAll is "helm lint --strict" for each file of values in testdata; a file
// whose name starts with "bad" must be refused.
func lintAll() error {
	files, err := filepath.Glob("tools/manifests/testdata/*.yaml")
	if err != nil || len(files) == 0 {
		return errors.Join(err, errors.New("there are no values to lint with"))
	}
	for _, file := range files {
		values, err := readValues(file)
		if err != nil {
			return err
		}
		var faults []error
		for _, m := range lint.RunAll(chartDir, values, "istio-system").Messages {
			if m.Severity > support.InfoSev {
				faults = append(faults, fmt.Errorf("lint with %s: %w", file, m))
			}
		}
		wantRefused := strings.HasPrefix(filepath.Base(file), "bad")
		if wantRefused && len(faults) == 0 {
			return fmt.Errorf("lint with %s finds nothing, and should", file)
		}
		if !wantRefused && len(faults) > 0 {
			return errors.Join(faults...)
		}
	}
	return nil
}
