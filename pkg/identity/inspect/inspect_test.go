package inspect

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func rules() Rules { return Rules{Now: noon(), Ratio: 0.5, MinGrace: 10 * time.Minute} }

func TestRenewal(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ life, ratio, grace, want string }{
		{"19h", "0.5", "10m", "9h30m"},
		{"15m", "0.5", "10m", "5m"}, // the minimum is longer than half of it
		{"30s", "0.5", "0s", "15s"},
		{"10h", "0.2", "10m", "8h"},
		{"10h", "0", "10m", "9h50m"},
	} {
		r := rules()
		life, grace, want := span(t, c.life), span(t, c.grace), span(t, c.want)
		if _, err := fmt.Sscan(c.ratio, &r.Ratio); err != nil {
			t.Fatal(err)
		}
		r.MinGrace = grace
		leaf := sign(t, leafFor(0, life, cart), &w.root)
		report := Judge([]Set{{Chain: leaf.pem(), Roots: w.root.pem()}}, r)
		if got := report.Holders[0].Certificates[0].Renewal.Sub(noon()); got != want {
			t.Errorf("%+v: renewed after %s", c, got)
		}
	}
}

func span(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestFailWithin(t *testing.T) {
	w := newWorld(t)
	report := Judge([]Set{w.good(t), {Name: "roots", Roots: w.root.pem()}}, rules())
	for within, want := range map[time.Duration]bool{0: false, 9 * time.Hour: false, 10 * time.Hour: true, 72 * time.Hour: true} {
		if got := report.Failed(noon(), within); got != want {
			t.Errorf("within %s: %v", within, got)
		}
	}
	shown := w.good(t)
	shown.Presented = true
	if presented := Judge([]Set{shown}, rules()); presented.Failed(noon(), 72*time.Hour) || presented.FirstOutage == nil {
		t.Errorf("what a proxy presented may have been renewed: %+v", presented)
	}
	if o := report.FirstOutage; o.Holder != "certs/cart" || o.Reason != cart+" ends" {
		t.Errorf("first outage %+v", o)
	}
}

func TestText(t *testing.T) {
	w := newWorld(t)
	old := w.good(t)
	expired := sign(t, leafFor(20*time.Hour, -90*time.Minute, cart+"2"), &w.root)
	old.Name, old.Chain, old.Roots, old.NoKey = "certs/old", expired.pem(), w.other.pem(), "key.pem is not there"
	server := sign(t, leafFor(84*time.Hour, 84*time.Hour, "spiffe://cluster.local/ns/istio-system/sa/istio-pilot-service-account"), &w.root)
	sets := []Set{
		{Name: "control plane", Chain: server.pem(), Roots: w.root.pem()}, w.good(t), old,
		{Name: "proxy shop/cart", Chain: chain(w.leaf, w.between), Roots: w.root.pem(), Presented: true},
	}
	report := Judge(sets, rules())
	var text bytes.Buffer
	if err := report.Print(&text, noon()); err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "report.txt", text.Bytes())
	sound := Judge(sets[:2], rules())
	text.Reset()
	if err := sound.Print(&text, noon()); err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "sound.txt", text.Bytes())
	asJSON, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "report.json", append(asJSON, '\n'))
}

func compareGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test -update rewrites it):\n%s", name, got)
	}
}

func TestDir(t *testing.T) {
	ca, err := identity.NewCA("root", 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	for _, name := range []string{"web", "cart"} {
		pair, err := ca.Issue("spiffe://cluster.local/ns/shop/sa/"+name, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		dir := identity.Dir{Path: filepath.Join(tree, "shop", name)}
		for range 2 { // replaced once
			if err := dir.Publish(pair); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := identity.OpenCA(filepath.Join(tree, "state"), identity.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(tree, "shop", "web", "key.pem")); err != nil {
		t.Fatal(err)
	}
	sets, err := Dir(tree)
	if err != nil {
		t.Fatal(err)
	}
	r := rules()
	r.Now = time.Now()
	var got []string
	for _, h := range Judge(sets, r).Holders {
		got = append(got, fmt.Sprintf("%s %s %v", strings.TrimPrefix(h.Name, tree+"/"), h.Certificates[0].Role, h.Problems))
	}
	want := []string{"shop/cart leaf []", "shop/web leaf []", "state ca []"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := Dir(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no cert-chain.pem, ca-cert.pem or root-cert.pem in it") {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := Dir(filepath.Join(tree, "nothing")); !os.IsNotExist(err) {
		t.Errorf("no directory: %v", err)
	}
}

// No key is in a report, whatever is wrong with it.
func TestKeysAreNeverPrinted(t *testing.T) {
	w := newWorld(t)
	secret := w.root.keyPEM(t)
	set := w.good(t)
	set.Key = secret
	report := Judge([]Set{set, {Name: "key as chain", Chain: secret, Key: secret}}, rules())
	var text bytes.Buffer
	if err := report.Print(&text, noon()); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Split(string(secret), "\n")[1]
	if all := text.String() + string(asJSON) + fmt.Sprintf("%+v", report); strings.Contains(all, body[:16]) {
		t.Errorf("a key is in\n%s", all)
	}
}
