package meshconfig

import "github.com/meshpilot/pilot/pkg/model"

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

// Problem is a reported finding about one object.
type Problem struct {
	Code     string // as the spec names it: INVALID, NO_SERVICE, …
	Severity Severity
	On       model.Key
	Field    string // path in the object; empty if it is the whole object
	Message  string // what is wrong, and what to write instead
	At       Position
}
