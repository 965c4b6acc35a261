package secrets

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

// bed is a running controller over a directory. Its clock is synctest's.
type bed struct {
	t    *testing.T
	c    *Controller
	dir  Directory
	ca   *identity.CA
	fail *failing
	log  bytes.Buffer

	mu       sync.Mutex
	problems []identity.Problem
	reports  string // all of them, as a page would show them
}

// failing is a store that refuses some writes.
type failing struct {
	Directory
	mu            sync.Mutex
	left, refused int
	listing       error
}

func (f *failing) refuse() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left == 0 {
		return nil
	}
	f.left--
	f.refused++
	return errors.New("the disk is full")
}

func (f *failing) set(left int) { f.mu.Lock(); f.left, f.refused = left, 0; f.mu.Unlock() }

func (f *failing) Create(ctx context.Context, s Secret) (string, error) {
	if err := f.refuse(); err != nil {
		return "", err
	}
	return f.Directory.Create(ctx, s)
}

func (f *failing) Update(ctx context.Context, s Secret, version string) (string, error) {
	if err := f.refuse(); err != nil {
		return "", err
	}
	return f.Directory.Update(ctx, s, version)
}

func (f *failing) List(ctx context.Context, namespace string) ([]Listed, error) {
	f.mu.Lock()
	err := f.listing
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.Directory.List(ctx, namespace)
}

func start(t *testing.T, ca *identity.CA, change func(*Options)) *bed {
	b := &bed{t: t, ca: ca, dir: Directory{Path: filepath.Join(t.TempDir(), "secrets")}}
	b.fail = &failing{Directory: b.dir}
	o := Options{
		Store: b.fail, CA: ca, Renewal: identity.Renewal{Ratio: identity.DefaultGraceRatio, MinGrace: identity.DefaultMinGrace},
		Log: slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&o)
	}
	b.c = New(o)
	go b.c.Run(t.Context(), func(p []identity.Problem) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.problems = p
		text, err := json.Marshal(p)
		if err != nil {
			t.Error(err)
		}
		b.reports += string(text)
	})
	synctest.Wait()
	return b
}

// after lets time go by, until nobody has anything to do.
func (b *bed) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bed) accounts(list ...Account) {
	b.c.Set("cluster.local", list)
	synctest.Wait()
}

func (b *bed) read(a Account) (s Secret, there bool) {
	b.t.Helper()
	s, _, err := b.dir.Get(b.t.Context(), a)
	if err != nil && !errors.Is(err, ErrNotFound) {
		b.t.Fatal(err)
	}
	return s, err == nil
}

// serial is of the leaf; empty without one.
func (b *bed) serial(a Account) string {
	b.t.Helper()
	s, there := b.read(a)
	if !there {
		return ""
	}
	certs, err := identity.ParseCertificates(s.CertChain)
	if err != nil {
		b.t.Fatal(err)
	}
	if got := certs[0].URIs[0].String(); !strings.HasSuffix(got, "/ns/"+a.Namespace+"/sa/"+a.Name) {
		b.t.Errorf("Secret of %s has the identity %s", a, got)
	}
	return certs[0].SerialNumber.String()
}

// codes are the problems in force.
func (b *bed) codes() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, p := range b.problems {
		out = append(out, p.Code)
	}
	return strings.Join(out, " ")
}

func (b *bed) want(what string, ok bool) {
	b.t.Helper()
	if !ok {
		b.t.Errorf("not so: %s; problems %s", what, b.codes())
	}
}

func cart() Account { return Account{"shop", "cart"} }

func TestLifeOfASecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newCA(t), nil)
		b.after(2 * time.Minute)
		b.want("nothing is done before accounts are known", b.serial(cart()) == "")
		b.accounts(cart(), Account{"shop", "web"})
		first := b.serial(cart())
		b.want("made", first != "" && b.serial(Account{"shop", "web"}) != "")

		b.after(8 * time.Hour)
		b.want("left alone for long", b.serial(cart()) == first)
		b.after(time.Hour + 31*time.Minute)
		second := b.serial(cart())
		b.want("renewed with half of its life left", second != first)

		b.accounts(cart())
		_, there := b.read(Account{"shop", "web"})
		b.want("deleted with its account", !there)

		if err := os.RemoveAll(b.dir.dir(cart()).Path); err != nil {
			t.Fatal(err)
		}
		b.after(watchTime)
		third := b.serial(cart())
		b.want("made again", third != "" && third != second)

		if err := os.WriteFile(filepath.Join(b.dir.dir(cart()).Path, identity.KeyFile), []byte("no key"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.after(watchTime)
		b.want("repaired", b.serial(cart()) != third && b.codes() == "")

		if stats := b.c.Stats(); stats.Secrets != 1 || stats.FirstExpiry.Sub(time.Now()) > 19*time.Hour || stats.FirstExpiry.Before(time.Now()) {
			t.Errorf("stats %+v", stats)
		}
	})
}

func TestShortLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, err := identity.New(identity.Options{Lifetimes: identity.Lifetimes{Default: 5 * time.Minute}})
		if err != nil {
			t.Fatal(err)
		}
		b := start(t, ca, nil)
		b.accounts(cart())
		last := b.serial(cart())
		for range 3 {
			b.after(time.Minute)
			next := b.serial(cart())
			b.want("renewed at every resync", next != last)
			b.c.Wake()
			b.after(time.Second)
			b.want("and only then", b.serial(cart()) == next)
			last = next
		}
		b.want("said so", b.codes() == "GRACE_ABOVE_TTL")
	})
}

// TestEdited: an edit of a Secret is looked at before the next resync.
func TestEdited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newCA(t), nil)
		b.accounts(cart())
		b.after(5 * time.Second)
		p, err := b.ca.Issue(uri(cart()), 10*time.Minute) // due at once
		if err != nil {
			t.Fatal(err)
		}
		_, version, err := b.dir.Get(t.Context(), cart())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.dir.Update(t.Context(), Secret{cart(), p.CertChain, p.Key, p.Roots}, version); err != nil {
			t.Fatal(err)
		}
		edited := b.serial(cart())
		b.after(watchTime)
		b.want("renewed", b.serial(cart()) != edited)
	})
}

// TestAttemptsOfRenewal: the second attempt does not wait for a resync.
func TestAttemptsOfRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, err := identity.New(identity.Options{Lifetimes: identity.Lifetimes{Default: 5 * time.Minute}})
		if err != nil {
			t.Fatal(err)
		}
		b := start(t, ca, nil)
		b.accounts(cart())
		first := b.serial(cart())
		b.fail.set(2)
		b.after(time.Minute + 1500*time.Millisecond)
		b.want("failed twice", b.serial(cart()) == first && b.fail.refused == 2)
		b.after(time.Second)
		b.want("renewed", b.serial(cart()) != first)
	})
}

// TestCAChangesUnderAWrite: a leaf is not written with roots that nobody
// decided for.
func TestCAChangesUnderAWrite(t *testing.T) {
	c := New(Options{CA: newCA(t), Store: Directory{Path: t.TempDir()}})
	e := &entry{account: cart(), situation: situation{uri: uri(cart())}}
	if _, err := c.issue(e); !errors.Is(err, errMoved) {
		t.Errorf("issued: %v", err)
	}
	e.roots = sha256.Sum256(c.options.CA.Roots())
	if _, err := c.issue(e); err != nil {
		t.Error(err)
	}
}

func TestFifteenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, err := identity.New(identity.Options{Lifetimes: identity.Lifetimes{Default: 15 * time.Minute}})
		if err != nil {
			t.Fatal(err)
		}
		b := start(t, ca, nil)
		b.accounts(cart())
		first := b.serial(cart())
		b.after(4 * time.Minute)
		b.want("not yet", b.serial(cart()) == first)
		b.after(time.Minute)
		b.want("after five minutes", b.serial(cart()) != first)
	})
}

func TestTrustDomainChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newCA(t), nil)
		b.accounts(cart())
		first := b.serial(cart())
		b.c.Set("mesh.example", []Account{cart()})
		synctest.Wait()
		s, _ := b.read(cart())
		certs, err := identity.ParseCertificates(s.CertChain)
		if err != nil || certs[0].URIs[0].String() != "spiffe://mesh.example/ns/shop/sa/cart" {
			t.Errorf("%v, %v", certs[0].URIs, err)
		}
		b.want("new", b.serial(cart()) != first)
	})
}

func TestRefusedByTheCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, err := identity.New(identity.Options{Lifetimes: identity.Lifetimes{Default: 24 * time.Hour, Max: 2 * time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		b := start(t, ca, nil)
		b.accounts(cart())
		_, there := b.read(cart())
		b.want("no Secret", !there && b.codes() == "CERT_REFUSED")
		const text = "service account cart in namespace shop gets no certificate: requested TTL 24h0m0s is greater than the max allowed TTL 2h0m0s"
		b.mu.Lock()
		if p := b.problems[0]; p.Message != text || !p.Error || p.On.String() != "ServiceAccount shop/cart" {
			t.Errorf("%+v", p)
		}
		b.mu.Unlock()
		tries := func() uint64 { _, refused, _ := ca.Counts(); return refused }
		b.want("tried once", tries() == 1)
		b.c.Wake()
		b.after(10 * time.Second)
		b.want("not again", tries() == 1 && b.codes() == "CERT_REFUSED")
		b.after(time.Minute)
		b.want("but at the resync", tries() == 2)
		b.accounts()
		b.want("forgotten with the account", b.codes() == "")
	})
}

func TestAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newCA(t), nil)
		b.fail.set(2)
		b.accounts(cart())
		b.want("failed, and says nothing yet", b.serial(cart()) == "" && b.codes() == "")
		b.after(2 * time.Second)
		b.want("the third was good", b.serial(cart()) != "")

		b.fail.set(1000)
		web := Account{"shop", "web"}
		b.accounts(cart(), web)
		b.after(30 * time.Second)
		b.want("three attempts", b.fail.refused == 3 && b.codes() == "SECRET_NOT_WRITTEN")
		b.fail.set(0)
		b.after(31 * time.Second)
		b.want("again at the resync", b.serial(web) != "" && b.codes() == "")

		b.fail.mu.Lock()
		b.fail.listing = errors.New("no such directory")
		b.fail.mu.Unlock()
		b.after(time.Minute)
		b.want("said", b.codes() == "SECRETS_UNREADABLE")
		b.fail.mu.Lock()
		b.fail.listing = nil
		b.fail.mu.Unlock()
		b.after(time.Minute)
		b.want("over", b.codes() == "")
	})
}

func TestForeign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newCA(t), nil)
		path := b.dir.dir(cart()).Path
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		mine := filepath.Join(path, "mine.txt")
		if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.accounts(cart())
		b.want("left alone", b.codes() == "FOREIGN_SECRET")
		b.accounts()
		b.after(time.Minute)
		text, err := os.ReadFile(mine)
		b.want("still there", err == nil && string(text) == "mine" && b.codes() == "")
	})
}

func TestOneNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := Account{"other", "web"}
		b := start(t, newCA(t), func(o *Options) {
			o.Namespace = "shop"
			o.DNSNames = map[Account][]string{cart(): {"cart.example", "cart.test"}}
		})
		if _, err := b.dir.Create(t.Context(), Secret{Account: web}); err != nil {
			t.Fatal(err)
		}
		b.accounts(cart(), Account{"third", "x"})
		b.after(time.Minute)
		_, there := b.read(web)
		b.want("others are not touched", there && b.serial(Account{"third", "x"}) == "")
		s, _ := b.read(cart())
		certs, err := identity.ParseCertificates(s.CertChain)
		if err != nil || fmt.Sprint(certs[0].DNSNames) != "[cart.example cart.test]" {
			t.Errorf("%v, %v", certs[0].DNSNames, err)
		}
		first := b.serial(cart())
		b.after(2 * time.Minute)
		b.want("its names are the ones it should have", b.serial(cart()) == first)
	})
}

// TestKeysAreNeverPrinted: neither a whole life with all that can go wrong,
// nor the values themselves.
func TestKeysAreNeverPrinted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newCA(t), nil)
		var keys []string
		keep := func() {
			s, there := b.read(cart())
			if there {
				keys = append(keys, keyLines(s.Key)...)
			}
		}
		b.accounts(cart())
		keep()
		s, _ := b.read(cart())
		key := filepath.Join(b.dir.dir(cart()).Path, identity.KeyFile)
		for _, damage := range [][]byte{s.Key[:100], s.Key[20:], append([]byte("x\n"), s.Key[60:]...), s.CertChain} {
			if err := os.WriteFile(key, damage, 0o600); err != nil {
				t.Fatal(err)
			}
			b.fail.set(3)
			b.after(watchTime)
			b.after(time.Minute)
			keep()
		}
		b.after(12 * time.Hour)
		keep()
		all := b.log.String() + b.reports + fmt.Sprintf("%v %+v %#v %s", s, s, s, s)
		text, err := json.Marshal(map[string]any{"secret": s})
		if err != nil {
			t.Fatal(err)
		}
		all += string(text)
		if !strings.Contains(all, "its key cannot be parsed") || !strings.Contains(all, "SECRET_NOT_WRITTEN") || len(keys) < 10 {
			t.Errorf("the life was too quiet: %d key lines, %s", len(keys), all)
		}
		for _, line := range keys {
			if strings.Contains(all, line) {
				t.Fatalf("key material in %s", all)
			}
		}
	})
}
