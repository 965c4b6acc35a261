package lab

import (
	"fmt"
	"strings"
	"time"
)

// tableLines are the rows below a heading, in columns.
func tableLines(rows []Row) []string {
	namespace := commonNamespace(rows)
	cells := [][]string{{"CALLER", "CALLEE:PORT", "REQUESTS", "FAILED", "MTLS", "MODE", "CERT", "CONFIG AGE"}}
	for _, r := range rows {
		age := "-"
		if r.Age >= 0 {
			age = r.Age.Truncate(time.Second).String()
		}
		callee, port, _ := strings.Cut(r.calleeText(), ":")
		if namespace != "" {
			callee = strings.TrimSuffix(callee, "."+namespace)
		}
		cells = append(cells, []string{
			strings.TrimPrefix(r.callerText(), namespace+"/"), callee + ":" + port,
			fmt.Sprint(r.Requests), fmt.Sprint(r.Failed), fmt.Sprintf("%.0f %%", 100*r.Now), r.way, r.certText(), age,
		})
	}
	width := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, text := range line {
			width[i] = max(width[i], len(text))
		}
	}
	lines := make([]string, len(cells))
	for i, c := range cells {
		lines[i] = strings.TrimRight(fmt.Sprintf("%-*s %-*s %*s %*s %*s  %-*s %-*s %s",
			width[0], c[0], width[1], c[1], width[2], c[2], width[3], c[3], width[4], c[4], width[5], c[5], width[6], c[6], c[7]), " ")
	}
	return lines
}

// commonNamespace is the one that all callers and callees are in, or empty:
// then the table need not name it.
func commonNamespace(rows []Row) string {
	common := ""
	for _, r := range rows {
		host := strings.Split(r.Callee, ".")
		if len(host) < 2 {
			return ""
		}
		spaces := []string{host[1]}
		if caller, _, ok := strings.Cut(r.Caller, "/"); ok {
			spaces = append(spaces, caller)
		}
		for _, n := range spaces {
			if common == "" {
				common = n
			}
			if n != common {
				return ""
			}
		}
	}
	return common
}

// merged has one row per callee for all callers with a sidecar, for terminals
// that are too low for one per pair.
func merged(rows []Row) []Row {
	var out []Row
	at := map[string]int{}
	count := map[string]int{}
	for _, r := range rows {
		key := r.calleeText()
		i, ok := at[key]
		switch {
		case !r.Sidecar:
			out = append(out, r)
			continue
		case !ok:
			at[key], i = len(out), len(out)
			out = append(out, r)
			out[i].Now = 0
		default:
			out[i].Requests += r.Requests
			out[i].Failed += r.Failed
			out[i].Age = min(out[i].Age, r.Age)
			out[i].Leaf = 0 // they have different ones
		}
		count[key]++
		out[i].Now += r.Now
	}
	for key, i := range at {
		out[i].Now /= float64(count[key])
		out[i].Caller = fmt.Sprintf("%d sidecars", count[key])
	}
	return out
}

func (r Row) callerText() string {
	if r.Sidecar {
		return r.Caller
	}
	return r.Caller + " (no sidecar)"
}

// certText is the caller's certificate as the callee saw it last, of how many
// there were.
func (r Row) certText() string {
	switch {
	case r.Leaf == 0:
		return "-"
	case r.PeerLeaf == 0:
		return fmt.Sprintf("-/%d", r.Leaf)
	}
	return fmt.Sprintf("%d/%d %.8s", r.PeerLeaf, r.Leaf, r.PeerSerial)
}

func (r Row) calleeText() string {
	return fmt.Sprintf("%s:%d", strings.TrimSuffix(r.Callee, ".svc."+domain), r.Port)
}

func (r Row) name() string { return r.callerText() + " -> " + r.calleeText() }
