package translate

import (
	"errors"
	"fmt"
)

// Check says what Envoy would refuse in a half: a broken rule of its API, or a
// reference to something that is not there. Such a half must not be sent.
func Check(h *Half, endpoints *Table) error {
	var errs []error
	for _, table := range []*Table{h.Secrets, h.SecretsRespelled, h.Clusters, h.Listeners, h.Routes} {
		for i, r := range table.Resources {
			if r.err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", r.Name, r.err))
			}
			if i > 0 && table.Resources[i-1].Name == r.Name {
				errs = append(errs, fmt.Errorf("%s: name used twice", r.Name))
			}
			for _, name := range r.clusters {
				if name != blackHoleCluster && h.Clusters.Find(name) == nil {
					errs = append(errs, fmt.Errorf("%s: cluster %s does not exist", r.Name, name))
				}
			}
			for _, name := range r.routes {
				if name != proxyRoute && h.Routes.Find(name) == nil {
					errs = append(errs, fmt.Errorf("%s: route %s does not exist", r.Name, name))
				}
			}
			if r.eds && endpoints.Find(r.Name) == nil {
				errs = append(errs, fmt.Errorf("%s: endpoints do not exist", r.Name))
			}
		}
	}
	return errors.Join(errs...)
}
