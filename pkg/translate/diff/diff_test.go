package diff

import (
	"slices"
	"testing"
)

const base = `
listeners:
- name: virtualInbound
  filter_chains:
  - name: 80|app-tls
  - name: 80|plain
    filters: [{name: tcp, stat: a}]
clusters:
- name: outbound|80||a
  connect_timeout: 10s
endpoints:
- cluster_name: outbound|80||a
  endpoints:
  - lb_endpoints:
    - endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}
`

type diffCase struct {
	name, new string
	want      []string
}

func diffCases() []diffCase {
	return []diffCase{
		{"equal", base, nil},
		{"a chain more, a field changed", `
listeners:
- name: virtualInbound
  filter_chains:
  - name: 80|mtls
  - name: 80|app-tls
  - name: 80|plain
    filters: [{name: tcp, stat: b}]
clusters:
- name: outbound|80||a
  connect_timeout: 5s
endpoints:
- cluster_name: outbound|80||a
  endpoints:
  - lb_endpoints:
    - endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}
`, []string{
			`+ listeners virtualInbound filter_chains[80|mtls]: {"name":"80|mtls"}`,
			`~ listeners virtualInbound filter_chains[80|plain].filters[tcp].stat: a -> b`,
			`~ clusters outbound|80||a connect_timeout: 10s -> 5s`,
		}},
		{"a resource gone, one new, an endpoint moved", `
listeners:
- name: virtualInbound
  filter_chains:
  - name: 80|app-tls
  - name: 80|plain
    filters: [{name: tcp, stat: a}]
clusters:
- name: outbound|80||b
endpoints:
- cluster_name: outbound|80||a
  endpoints:
  - lb_endpoints:
    - endpoint: {address: {socket_address: {address: 10.0.0.2, port_value: 80}}}
`, []string{
			`- clusters outbound|80||a`,
			`+ clusters outbound|80||b`,
			`- endpoints outbound|80||a endpoints[0].lb_endpoints[10.0.0.1:80]: {"endpoint":{"address":{"socket_address":{"address":"10.0.0.1","port_value":80}}}}`,
			`+ endpoints outbound|80||a endpoints[0].lb_endpoints[10.0.0.2:80]: {"endpoint":{"address":{"socket_address":{"address":"10.0.0.2","port_value":80}}}}`,
		}},
		{"the order of chains is content", `
listeners:
- name: virtualInbound
  filter_chains:
  - name: 80|plain
    filters: [{name: tcp, stat: a}]
  - name: 80|app-tls
clusters:
- name: outbound|80||a
  connect_timeout: 10s
endpoints:
- cluster_name: outbound|80||a
  endpoints:
  - lb_endpoints:
    - endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}
`, []string{`~ listeners virtualInbound filter_chains: [{"name":"80|app-tls"},{"filters":[{"name":"tcp","stat":"a"}],"name":"80|plain"}] -> [{"filters":[{"name":"tcp","stat":"a"}],"name":"80|plain"},{"name":"80|app-tls"}]`}},
	}
}

func TestDiff(t *testing.T) {
	for _, c := range diffCases() {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, change := range Diff([]byte(base), []byte(c.new)) {
				got = append(got, change.String())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got:\n%q\nwant:\n%q", got, c.want)
			}
		})
	}
}

func TestDiffOfUnreadableText(t *testing.T) {
	if got := Diff([]byte("\t"), []byte("listeners: []")); len(got) != 1 || got[0].Type != "unreadable" {
		t.Errorf("got %v, want one change of type unreadable", got)
	}
}
