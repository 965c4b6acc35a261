package feed

import (
	"errors"
	"net/netip"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"github.com/meshpilot/pilot/pkg/translate"
	"google.golang.org/protobuf/encoding/protowire"
)

// The fields that are read of Envoy's messages.
const (
	logsIdentifier = 1
	logsHTTP       = 2
	logsTCP        = 3
	identifierNode = 1
	identifierName = 2
	entriesEntry   = 1
	entryCommon    = 1

	commonLocal        = 3
	commonUpstream     = 13 // its address
	commonRouteName    = 19
	commonDirectRemote = 20
	commonType         = 33

	addressSocket = 1
	socketAddress = 2
	socketPort    = 3
)

// log is what the name of an access log says.
type log struct {
	kind  Kind
	other bool // of ports that nothing names
}

func readLogName(name string) (log, bool) {
	short := strings.TrimSuffix(name, translate.LogOther)
	l := log{other: short != name}
	switch short {
	case translate.LogPlain:
		l.kind = Plain
	case translate.LogAppTLS:
		l.kind = AppTLS
	case translate.LogRefuse:
		l.kind = Refused
	default:
		return l, false
	}
	return l, true
}

// record is what is read of one.
type record struct {
	peer   netip.Addr
	port   uint16
	kind   Kind
	begins bool // not of something that was told before
}

// records takes the records of a message, as many as the budget allows; news
// says that a peer is new.
func (p *proxy) records(message []byte, l log, now time.Time) (news bool, err error) {
	budget := &p.budgets[0]
	if l.kind == Refused {
		budget = &p.budgets[1] // a flood of them hides no plaintext
	}
	take := func(entry []byte) {
		if !budget.spend(now) {
			p.excess++
			if l.kind != Refused {
				p.gap(now)
			}
			return
		}
		p.read++
		r, ok := readEntry(entry)
		if !ok {
			return
		}
		r.kind = l.kind
		at := r.port
		if l.other {
			at = 0
		}
		if t := p.port(at); t != nil && t.saw(r, r.port, now) {
			news = true
		}
	}
	for _, kind := range []protowire.Number{logsHTTP, logsTCP} {
		err = errors.Join(err, messages(message, kind, func(entries []byte) {
			err = errors.Join(err, messages(entries, entriesEntry, take))
		}))
	}
	return news, err
}

// readEntry reads an HTTP or TCP entry. It is false for what is in nobody's
// way: what a probe asked for.
func readEntry(entry []byte) (r record, ok bool) {
	var kind accesslogv3.AccessLogType
	probe, served := false, false
	for e, more := first(entry); more; e, more = first(e.rest) {
		if e.number != entryCommon {
			continue
		}
		for f, more := first(e.bytes); more; f, more = first(f.rest) {
			switch f.number {
			case commonDirectRemote:
				r.peer, _ = readAddress(f.bytes)
			case commonLocal:
				_, r.port = readAddress(f.bytes)
			case commonRouteName:
				probe = string(f.bytes) == translate.RouteProbe
			case commonUpstream:
				served = true
			case commonType:
				kind = accesslogv3.AccessLogType(f.value)
			}
		}
	}
	switch kind {
	case accesslogv3.AccessLogType_NotSet, accesslogv3.AccessLogType_DownstreamStart, accesslogv3.AccessLogType_DownstreamEnd, accesslogv3.AccessLogType_TcpUpstreamConnected:
		r.begins = true
	case accesslogv3.AccessLogType_TcpConnectionEnd:
		r.begins = !served // else it was told when it began
	}
	return r, !probe && r.peer.IsValid() && r.port > 0
}

func readAddress(address []byte) (ip netip.Addr, port uint16) {
	for a, ok := first(address); ok; a, ok = first(a.rest) {
		if a.number != addressSocket {
			continue
		}
		for f, ok := first(a.bytes); ok; f, ok = first(f.rest) {
			switch f.number {
			case socketAddress:
				ip, _ = netip.ParseAddr(string(f.bytes))
			case socketPort:
				port = uint16(f.value)
			}
		}
	}
	return ip.Unmap().WithZone(""), port
}
