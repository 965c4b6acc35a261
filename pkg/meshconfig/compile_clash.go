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
	for i := 0; i < len(s.VIPs); {
		if c.claimAddress(s, s.VIPs[i], owners) {
			i++
			continue
		}
		s.VIPs = slices.Delete(slices.Clone(s.VIPs), i, i+1) // the list may be the object's own
	}
}

// claimAddress says whether s may have the address, and reports who has it.
func (c *compiler) claimAddress(s *model.Service, vip string, owners map[netip.AddrPort]*model.Service) bool {
	ip, err := netip.ParseAddr(vip)
	if err != nil {
		return false
	}
	for i := range s.Ports {
		at := netip.AddrPortFrom(ip.Unmap(), s.Ports[i].Number)
		other := owners[at]
		if other == nil {
			continue
		}
		if other != s { // else the same address in another spelling
			c.warn(codeVIPClash, s.Key, "", "address %s belongs to %s (%s), which is %s, and does not lead to %s: give it another address",
				at, other.Key, other.Host, seniority(other, s), s.Host)
		}
		return false
	}
	for i := range s.Ports {
		owners[netip.AddrPortFrom(ip.Unmap(), s.Ports[i].Number)] = s
	}
	return true
}

func seniority(winner, loser *model.Service) string {
	if winner.Created != loser.Created {
		return "older"
	}
	return "first by name"
}
