package kube

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

var forbiddenUser = regexp.MustCompile(`User "([^"]*)" cannot (\S+) `)

// denied is the Problem of a kind that RBAC does not let pilot read; whom to
// grant what is in it.
func denied(f *follower, err error) meshconfig.Problem {
	on, verb := model.Key{Kind: "User", Name: "pilot"}, "list"
	if m := forbiddenUser.FindStringSubmatch(err.Error()); m != nil {
		on.Name, verb = m[1], m[2]
		if account, ok := strings.CutPrefix(m[1], "system:serviceaccount:"); ok {
			on.Kind = "ServiceAccount"
			on.Namespace, on.Name, _ = strings.Cut(account, ":")
		}
	}
	effect := f.kind.without
	if f.isSynced() {
		effect = "they stay as they were last read"
	}
	role := "a ClusterRole"
	if f.kind.namespace != "" {
		role = "a Role in " + f.kind.namespace
	}
	p := meshconfig.Problem{
		Code: "RBAC_DENIED", Severity: meshconfig.Error, On: on,
		Message: fmt.Sprintf("may not %s %s, so %s; grant it list and watch on resource %q of API group %q by %s",
			verb, f.kind.what, effect, f.kind.resource.Resource, f.kind.resource.Group, role),
	}
	if f.kind.optional {
		p.Severity = meshconfig.Warning
	}
	return p
}

// outage is an error that says that the API as a whole cannot be followed, and
// not only one kind; nil if it is none.
func outage(err error) error {
	if err == nil || apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		return nil
	}
	switch text := err.Error(); {
	case apierrors.IsUnauthorized(err):
		return errors.New("it refuses pilot's credentials (Unauthorized): is the token or certificate expired, or a clock wrong?")
	case strings.Contains(text, "certificate has expired or is not yet valid"):
		return fmt.Errorf("%w; is a clock wrong?", err)
	}
	return err
}

// unreachable is the Problem while the API cannot be followed.
func unreachable(server string, err error) meshconfig.Problem {
	return meshconfig.Problem{
		Code: "API_UNREACHABLE", Severity: meshconfig.Error, On: model.Key{Kind: "APIServer", Name: server},
		Message: fmt.Sprintf("the Kubernetes API cannot be followed, what was last read stays in force: %s", err),
	}
}

// clockSkew is the Problem of clocks that differ: certificates that pilot
// issues are not valid yet, or no longer, for others.
func clockSkew(server string, ahead time.Duration) meshconfig.Problem {
	way := "ahead of"
	if ahead < 0 {
		way = "behind"
	}
	return meshconfig.Problem{
		Code: "CLOCK_SKEW", Severity: meshconfig.Warning, On: model.Key{Kind: "APIServer", Name: server},
		Message: fmt.Sprintf("its clock is %s %s pilot's; certificates and leases need clocks that agree", ahead.Abs().Round(time.Second), way),
	}
}
