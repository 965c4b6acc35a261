package kube

import (
	"fmt"
	"time"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// massRemoval is how many ready endpoints a service must have lost at once to
// be guarded.
const massRemoval = 10

// disappearance is what the lists after a loss of events no longer had.
type disappearance struct {
	slices         []*discoveryv1.EndpointSlice // that are still there
	goneSlices     []*discoveryv1.EndpointSlice
	pods, services map[string]bool // gone; by namespace/name
}

// emptied are the services, by namespace/name, that had massRemoval or more
// ready endpoints and have none left, because their slices, the pods behind
// them or the service itself vanished; with how many they had. A service
// whose slices or pods were deleted by events, or whose slices are there and
// say that nothing is ready, is none of them.
func (d disappearance) emptied() map[string]int {
	if len(d.goneSlices)+len(d.pods)+len(d.services) == 0 {
		return nil
	}
	had, left := map[string]map[string]bool{}, map[string]bool{}
	count := func(slice *discoveryv1.EndpointSlice, gone bool) {
		service := serviceOf(slice)
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if !ready(e) {
				continue
			}
			if had[service] == nil {
				had[service] = map[string]bool{}
			}
			had[service][e.Addresses[0]] = true
			if !gone && !d.services[service] && !d.pods[podBehind(slice, e)] {
				left[service] = true
			}
		}
	}
	for _, slice := range d.slices {
		count(slice, false)
	}
	for _, slice := range d.goneSlices {
		count(slice, true)
	}
	emptied := map[string]int{}
	for service, addresses := range had {
		if len(addresses) >= massRemoval && !left[service] {
			emptied[service] = len(addresses)
		}
	}
	return emptied
}

func ready(e *discoveryv1.Endpoint) bool {
	return len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) &&
		(e.Conditions.Terminating == nil || !*e.Conditions.Terminating)
}

func serviceOf(slice *discoveryv1.EndpointSlice) string {
	return slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]
}

// podBehind is empty for an endpoint that is no pod.
func podBehind(slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint) string {
	if e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
		return ""
	}
	return slice.Namespace + "/" + e.TargetRef.Name
}

func massRemovalProblem(namespace, name string, count int, most time.Duration) meshconfig.Problem {
	return meshconfig.Problem{
		Code: "MASS_REMOVAL", Severity: meshconfig.Error, On: model.Key{Kind: "Service", Namespace: namespace, Name: name},
		Message: fmt.Sprintf("all %d ready endpoints are missing in the list that followed a lost watch, and no event told of their deletion; "+
			"the last state stays in force until a second list confirms it, for at most %s", count, most),
	}
}
