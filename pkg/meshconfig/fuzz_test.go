package meshconfig_test

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// FuzzCompile takes any bytes all the way to every workload's configuration,
// which must pass the check that guards what is sent.
func FuzzCompile(f *testing.F) {
	for _, pattern := range []string{"testdata/fuzz-seeds/*.yaml", "../../examples/bookinfo/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatal(pattern, files, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, _ := meshconfig.Decode(bytes.NewReader(data), "fuzz.yaml")
		in, problems := meshconfig.Compile(b, "cluster.local")
		again, problemsAgain := meshconfig.Compile(b, "cluster.local")
		if d := cmp.Diff(in, again) + cmp.Diff(problems, problemsAgain); d != "" {
			t.Fatalf("compiled twice: %s", d)
		}
		unique(t, in)
		s := model.Build(in)
		for _, w := range s.Workloads() {
			p, _ := s.ProxyOf(w.ID)
			for _, capture := range []model.Capture{model.CaptureRedirect, model.CaptureNone} {
				p.Capture = &capture
				config, ok := translate.For(s, p)
				if !ok {
					t.Fatalf("%s is unknown", w.ID)
				}
				if err := checkConfig(config); err != nil {
					t.Fatalf("%s, capture %s: %s\n%s", w.ID, capture, err, data)
				}
			}
		}
	})
}

func checkConfig(c translate.Config) error {
	if err := translate.Check(c.Client, c.Endpoints); err != nil {
		return err
	}
	return translate.Check(c.Server, c.Endpoints)
}

// unique checks what translation takes for granted: no two services make
// resources of one name.
func unique(t *testing.T, in model.Inputs) {
	hosts, vips := map[string]bool{}, map[netip.AddrPort]bool{}
	for _, s := range in.Services {
		if hosts[s.Host] {
			t.Fatalf("host %s twice", s.Host)
		}
		hosts[s.Host] = true
		ports := map[uint16]bool{}
		for _, p := range s.Ports {
			if ports[p.Number] || p.Number == 0 {
				t.Fatalf("%s has port %d twice, or 0", s.Key, p.Number)
			}
			ports[p.Number] = true
			for _, e := range p.Endpoints {
				if e.Port == 0 || e.Address == "" {
					t.Fatalf("%s has endpoint %+v", s.Key, e)
				}
			}
			for _, vip := range s.VIPs {
				at := netip.AddrPortFrom(netip.MustParseAddr(vip), p.Number)
				if vips[at] {
					t.Fatalf("address %s twice", at)
				}
				vips[at] = true
			}
		}
	}
}
