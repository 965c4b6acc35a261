package status

import (
	"net/http"
	"time"
)

// Traffic is what one sidecar told of its inbound traffic; times are zero if
// it tells nothing.
type Traffic struct {
	Namespace string    `json:"namespace"`
	Workload  string    `json:"workload"`
	LogsSince time.Time `json:"logsSince,omitzero"` // no record can have been missed since
	// StatsSince is since when its stats come.
	StatsSince time.Time `json:"statsSince,omitzero"`
	// Complete says that ports which are not listed had no connection.
	Complete        bool          `json:"complete"`
	HandshakeErrors uint64        `json:"handshakeErrors"`
	Records         uint64        `json:"records"` // read
	Excess          uint64        `json:"excess"`  // came faster than allowed, and were only counted
	Ports           []TrafficPort `json:"ports"`
}

// TrafficPort is the traffic of a container port; 0 is all that nothing names.
type TrafficPort struct {
	Port          uint16        `json:"port"`
	Plain         Connections   `json:"plain"`
	MutualTLS     Connections   `json:"mutualTLS"`
	Refused       uint64        `json:"refused"`
	LastPlaintext time.Time     `json:"lastPlaintext,omitzero"`
	Peers         []TrafficPeer `json:"peers"`  // the newest first
	Others        uint64        `json:"others"` // calls of peers that are no longer listed
}

// Connections are open ones and all since the Envoy started; unless Known,
// nothing is proven by a zero.
type Connections struct {
	Open  uint64    `json:"open"`
	Total uint64    `json:"total"`
	Known bool      `json:"known"`
	At    time.Time `json:"at,omitzero"`
}

// TrafficPeer is who sent what is not mesh mTLS. Workload is empty if no
// workload, or more than one, has the address.
type TrafficPeer struct {
	Address  string    `json:"address"`
	Workload string    `json:"workload,omitempty"`
	Kind     string    `json:"kind"` // plain, app-tls, refused
	Port     uint16    `json:"port"`
	Count    uint64    `json:"count"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
}

func (p Pages) traffic(r *http.Request, _ State) (any, error) {
	namespace, workload := r.FormValue("namespace"), r.FormValue("workload")
	out := []Traffic{}
	for _, t := range p.Traffic() {
		if namespace != "" && t.Namespace != namespace || workload != "" && t.Namespace+"/"+t.Workload != workload {
			continue
		}
		out = append(out, t)
	}
	if workload != "" && len(out) == 0 {
		return nil, refusal{http.StatusNotFound, "no sidecar of " + workload + " has told of its traffic; workload is namespace/name"}
	}
	return out, nil
}
