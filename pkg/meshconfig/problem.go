package meshconfig

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
)

// Severity orders problems; only errors refuse an object.
type Severity uint8

// The severities.
const (
	Info Severity = iota
	Warning
	Error
)

// String is the severity in lower case.
func (s Severity) String() string {
	switch s {
	case Error:
		return "error"
	case Warning:
		return "warning"
	default:
		return "info"
	}
}

// The codes of what decoding and validation find.
const (
	codeInvalid        = "INVALID"          // an object is refused
	codeUnsupported    = "UNSUPPORTED"      // refused: leaving out what it asks would weaken protection
	codeDuplicate      = "DUPLICATE"        // a second object of the same kind, namespace and name
	codeUnknownKind    = "UNKNOWN_KIND"     // skipped
	codeUnusedField    = "UNUSED_FIELD"     // known to Istio, no effect here
	codeNoVerify       = "NO_VERIFY"        // a client takes any server for the right one
	codeTLSWithoutMode = "TLS_WITHOUT_MODE" // a tls block that means DISABLE
	codeNoMeshConfig   = "NO_MESH_CONFIG"   // defaults, or the last accepted one, are in force
	codeOldPort        = "OLD_PORT"         // discoveryAddress names a port of old Istio
	codeRestartNeeded  = "RESTART_NEEDED"   // running proxies do not see the edit
)

// Problem is a reported finding about one object.
type Problem struct {
	Code     string // as the spec names it: INVALID, NO_SERVICE, …
	Severity Severity
	On       model.Key
	Field    string // path in the object; empty if it is the whole object
	Message  string // what is wrong, and what to write instead
	At       Position
}

// String is "file:line: Kind namespace/name: field: message", without the
// parts that are not known.
func (p Problem) String() string {
	var b strings.Builder
	if p.At.File != "" {
		b.WriteString(p.At.String() + ": ")
	}
	// A file is already named, in front.
	if on := p.On.String(); on != "" && !(p.On.Kind == "File" && p.At.File != "") {
		b.WriteString(on + ": ")
	}
	// Messages about unknown fields hold the path themselves.
	if p.Field != "" && !strings.Contains(p.Message, strconv.Quote(p.Field)) {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// SortProblems orders by severity, worst first, then by object, field and
// place.
func SortProblems(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(
			-cmp.Compare(a.Severity, b.Severity),
			a.On.Compare(b.On),
			strings.Compare(a.Field, b.Field),
			strings.Compare(a.At.File, b.At.File),
			cmp.Compare(a.At.Line, b.At.Line),
			strings.Compare(a.Code, b.Code),
			strings.Compare(a.Message, b.Message))
	})
}

// String is "file:line", as editors and compilers write it.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}
