package simulate

import (
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/meshpilot/pilot/pkg/translate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// decoder remembers what it decoded: resources are immutable and shared, so a
// mesh decodes each once, however many calls are made in it. It is for one
// goroutine.
type decoder struct {
	resources map[*translate.Resource]proto.Message
	nested    map[*anypb.Any]proto.Message // by their place in a decoded resource
	outbound  map[[2]*translate.Half]*outboundIndex
	hosts     map[*routev3.RouteConfiguration]*hostIndex
}

func newDecoder() *decoder {
	return &decoder{
		resources: map[*translate.Resource]proto.Message{},
		nested:    map[*anypb.Any]proto.Message{},
		outbound:  map[[2]*translate.Half]*outboundIndex{},
		hosts:     map[*routev3.RouteConfiguration]*hostIndex{},
	}
}

func (p *Peer) decoder() *decoder {
	if p.decoded == nil {
		p.decoded = newDecoder()
	}
	return p.decoded
}

// decode is the message in r; the zero M if it is none, or of another type.
func decode[M proto.Message](d *decoder, r *translate.Resource) M {
	var zero M
	if r == nil {
		return zero
	}
	known, ok := d.resources[r]
	if !ok {
		m := zero.ProtoReflect().New().Interface()
		if r.Body.UnmarshalTo(m) != nil {
			return zero
		}
		d.resources[r], known = m, m
	}
	m, _ := known.(M)
	return m
}

// within is the message in a part of a decoded resource.
func within[M proto.Message](d *decoder, part *anypb.Any) M {
	var zero M
	if part == nil {
		return zero
	}
	known, ok := d.nested[part]
	if !ok {
		m := zero.ProtoReflect().New().Interface()
		if !part.MessageIs(m) || part.UnmarshalTo(m) != nil {
			return zero
		}
		d.nested[part], known = m, m
	}
	m, _ := known.(M)
	return m
}

// find decodes one resource; the zero M if there is none.
func find[M proto.Message](p *Peer, typeURL, name string) M {
	var zero M
	for _, t := range tables(p.Config, typeURL) {
		if r := t.Find(name); r != nil {
			return decode[M](p.decoder(), r)
		}
	}
	return zero
}

// tables are the tables of a type, the client's first.
func tables(c *translate.Config, typeURL string) []*translate.Table {
	switch typeURL {
	case translate.ListenerType:
		return []*translate.Table{c.Client.Listeners, c.Server.Listeners}
	case translate.RouteType:
		return []*translate.Table{c.Client.Routes, c.Server.Routes}
	case translate.SecretType:
		return []*translate.Table{c.Client.Secrets, c.Server.Secrets}
	case translate.ClusterType:
		return []*translate.Table{c.Client.Clusters, c.Server.Clusters}
	default:
		return []*translate.Table{c.Endpoints}
	}
}

// outboundIndex finds the listener of a destination.
type outboundIndex struct {
	byAddress map[socket]*listenerv3.Listener
	byPort    map[uint16]*listenerv3.Listener
	rest      *listenerv3.Listener
	proxy     *listenerv3.Listener // the explicit one
}

func (p *Peer) outbound() *outboundIndex {
	halves := [2]*translate.Half{p.Config.Client, p.Config.Server}
	if known := p.decoder().outbound[halves]; known != nil {
		return known
	}
	x := &outboundIndex{byAddress: map[socket]*listenerv3.Listener{}, byPort: map[uint16]*listenerv3.Listener{}}
	p.decoder().outbound[halves] = x
	for _, t := range tables(p.Config, translate.ListenerType) {
		for _, r := range t.Resources {
			l := decode[*listenerv3.Listener](p.decoder(), r)
			if l == nil || l.TrafficDirection != corev3.TrafficDirection_OUTBOUND {
				continue
			}
			at := socket{l.Address.GetSocketAddress().GetAddress(), uint16(l.Address.GetSocketAddress().GetPortValue())}
			switch {
			case l.UseOriginalDst.GetValue():
				x.rest = l
			case l.BindToPort == nil:
				x.proxy = l
			case at.address == "0.0.0.0":
				x.byPort[at.port] = l
			default:
				x.byAddress[at] = l
			}
		}
	}
	return x
}

// hostIndex finds the virtual host of an authority.
type hostIndex struct {
	exact map[string]*routev3.VirtualHost
	wild  []wildHost // the longest suffix first
}

type wildHost struct {
	suffix string
	host   *routev3.VirtualHost
}

func (d *decoder) hostsOf(config *routev3.RouteConfiguration) *hostIndex {
	if known := d.hosts[config]; known != nil {
		return known
	}
	x := &hostIndex{exact: map[string]*routev3.VirtualHost{}}
	d.hosts[config] = x
	for _, vh := range config.VirtualHosts {
		for _, domain := range vh.Domains {
			suffix, wild := strings.CutPrefix(domain, "*")
			if wild {
				x.wild = append(x.wild, wildHost{suffix, vh})
			} else {
				x.exact[domain] = vh
			}
		}
	}
	slices.SortStableFunc(x.wild, func(a, b wildHost) int { return len(b.suffix) - len(a.suffix) })
	return x
}

// find picks by authority: exact, "*." suffix, then "*"; nil if none matches.
func (x *hostIndex) find(authority string) *routev3.VirtualHost {
	if vh := x.exact[authority]; vh != nil {
		return vh
	}
	for _, w := range x.wild {
		if strings.HasSuffix(authority, w.suffix) && len(authority) > len(w.suffix) {
			return w.host
		}
	}
	return nil
}
