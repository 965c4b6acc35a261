package meshconfig

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
)

// settleClashes lets one service have each host, and each VIP with a port:
// the oldest. Two of either would be two resources of one name at a proxy.
func (c *compiler) settleClashes() {
	order := make([]int32, len(c.in.Services))
	for i := range order {
		order[i] = int32(i)
	}
	services := c.in.Services
	slices.SortStableFunc(order, func(a, b int32) int {
		return compareAge(services[a].Created, services[a].Key, services[b].Created, services[b].Key)
	})
	hosts := make(map[string]*model.Service, len(services))
	owners := make(map[netip.AddrPort]*model.Service, len(services))
	dropped := make([]bool, len(services))
	for _, at := range order {
		s := &services[at]
		if other := hosts[strings.ToLower(s.Host)]; other != nil {
			dropped[at] = true
			c.warn(codeHostClash, s.Key, "", "host %s belongs to %s, which is %s; this object gives it nothing: use another host, or merge the two",
				s.Host, other.Key, seniority(other, s))
			continue
		}
		hosts[strings.ToLower(s.Host)] = s
		c.settleAddresses(s, owners)
	}
	if !slices.Contains(dropped, true) {
		return
	}
	kept := services[:0]
	for i := range services {
		if !dropped[i] {
			kept = append(kept, services[i])
		}
	}
	c.in.Services = kept
}

// settleAddresses drops the VIPs that an older service has on a port of s.
func (c *compiler) settleAddresses(s *model.Service, owners map[netip.AddrPort]*model.Service) {
	for _, vip := range s.VIPs {
		ip, err := netip.ParseAddr(vip)
		if err != nil {
			continue
		}
		taken := false
		for i := range s.Ports {
			at := netip.AddrPortFrom(ip.Unmap(), s.Ports[i].Number)
			if other := owners[at]; other != nil && !taken {
				taken = true
				c.warn(codeVIPClash, s.Key, "", "address %s belongs to %s (%s), which is %s; %s is reached by its name only: give it another address",
					at, other.Key, other.Host, seniority(other, s), s.Host)
			}
		}
		if taken {
			s.VIPs = without(s.VIPs, vip)
			continue
		}
		for i := range s.Ports {
			owners[netip.AddrPortFrom(ip.Unmap(), s.Ports[i].Number)] = s
		}
	}
}

// without copies: the list may be the object's own.
func without(list []string, drop string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == drop })
}

func seniority(winner, loser *model.Service) string {
	if winner.Created != loser.Created {
		return "older"
	}
	return "first by name"
}
