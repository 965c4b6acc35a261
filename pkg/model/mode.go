package model

// Mode is what a (workload, container port) accepts (spec server-policy.md).
type Mode uint8

// The modes.
const (
	Disable Mode = iota
	Permissive
	Strict
	TLSOnly
)

// String is the mode as the spec spells it.
func (m Mode) String() string {
	switch m {
	case Permissive:
		return "PERMISSIVE"
	case Strict:
		return "STRICT"
	case TLSOnly:
		return "TLS_ONLY"
	default:
		return "DISABLE"
	}
}

// Decision is the mode of one port, with the reason kept as data.
type Decision struct {
	Mode    Mode  // what policy wants
	Phase   Phase // what is in force on the way there
	Rank    Rank
	Source  Key // the object that decided; zero at RankMeshConfig and RankNone
	StandIn bool
	Losers  []Key // same rank, in the order of the tie rule
}

// By is the source as refusals and reports name it: "Policy shop/cart",
// "annotation of Service shop/cart", "mesh config authPolicy".
func (d Decision) By() string {
	text := d.Source.String()
	switch d.Rank {
	case RankAnnotation:
		text = "annotation of " + text
	case RankMeshConfig:
		text = "mesh config authPolicy"
	case RankNone:
		text = "default"
	}
	if d.StandIn {
		text += " which is invalid"
	}
	return text
}
