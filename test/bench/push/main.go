// Command push measures how a running control plane sends changes to many
// proxies: the server in this process, the proxies in another, over real gRPC
// on loopback. The server is pilot's own, from an edited bundle to the last
// acknowledgement, so compiling and translating are in the figures, and so is
// the 100 ms for which an edit waits for others.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

func main() {
	services := flag.Int("services", 1000, "services, each with its own workloads")
	proxies := flag.String("proxies", "500,2000", "numbers of connected proxies")
	transports := flag.String("tls", "false,true", "plaintext, mutual TLS, or both")
	rounds := flag.Int("rounds", 3, "mesh-wide flips each way")
	edits := flag.Int("edits", 9, "changes of one service; the row is their median")
	gated := flag.Bool("gated", false, "changes in phases instead, on proof")
	profiles := flag.String("profiles", "", "directory for a CPU profile of each measurement")
	one := flag.Bool("one", false, "internal: one size, without the head of the table")
	child := flag.String("child", "", "internal: run the proxies of this description")
	flag.Parse()
	switch {
	case *child != "":
		fatal(runProxies(*child))
		return
	case *one:
		count, err := strconv.Atoi(*proxies)
		fatal(err)
		secure, err := strconv.ParseBool(*transports)
		fatal(err)
		fatal(plan{*services, count, secure, *rounds, *edits, *profiles, *gated}.measure())
		return
	}
	fmt.Printf("%d services, 50 namespaces; wall is from the edit to the last ACK, and an edit waits 100 ms for others\n", *services)
	fmt.Printf(layout, "proxies", "transport", "measure", "wall s", "CPU s", "MB", "resources", "peak MiB", "kB a proxy: RSS", "connection")
	for _, n := range strings.Split(*proxies, ",") {
		for _, t := range strings.Split(*transports, ",") {
			// A process of its own, so that no memory of another size is in the figures.
			run := exec.Command(os.Args[0], "-one", "-services", strconv.Itoa(*services), "-proxies", n, "-tls", t,
				"-rounds", strconv.Itoa(*rounds), "-edits", strconv.Itoa(*edits), "-profiles", *profiles, "-gated="+strconv.FormatBool(*gated))
			run.Stdout, run.Stderr = os.Stdout, os.Stderr
			fatal(run.Run())
		}
	}
}

const layout = "%-8v %-10s %-26s %8s %8s %9s %10s %9s %16s %12s\n"

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "push:", err)
		os.Exit(1)
	}
}

// plan is what one process measures.
type plan struct {
	services, proxies int
	secure            bool
	rounds, edits     int
	profiles          string
	gated             bool
}

// measure runs all measurements of one size and prints a row for each.
func (p plan) measure() error {
	b, err := start(p)
	if err != nil {
		return err
	}
	defer b.stop()
	b.profiles = p.profiles
	if _, err := b.children.do("learn"); err != nil {
		return err
	}
	before := b.memory()
	if err := p.row(b, "first connect", func() (time.Duration, error) { return b.children.do("connect") }, func() (string, string) {
		return perProxy(b.memory().rss-before.rss, p.proxies), ""
	}); err != nil {
		return err
	}
	if p.gated {
		return p.phased(b)
	}
	if err := p.changes(b); err != nil {
		return err
	}
	// The proxies note what they hold only now, as it costs them time.
	if _, err := b.children.do("disconnect", "record"); err != nil {
		return err
	}
	connected := b.memory().used
	if _, err := b.children.do("disconnect"); err != nil {
		return err
	}
	alone := b.memory().used // the world of all classes is still there
	return p.row(b, "reconnect, unchanged", func() (time.Duration, error) { return b.children.do("reconnect") }, func() (string, string) {
		return perProxy(b.memory().rss-before.rss, p.proxies), perProxy(connected-alone, p.proxies)
	})
}

// changes are the rows of edits while all are connected, each kind with what
// bare sockets take for as many bytes.
func (p plan) changes(b *bench) error {
	for range p.rounds {
		for _, on := range []bool{true, false} {
			if err := p.row(b, fmt.Sprintf("all clusters, mTLS %v", on), b.edit(func(m *mesh) { m.mutual = on }), nil); err != nil {
				return err
			}
		}
	}
	if err := p.floor(b); err != nil {
		return err
	}
	one, err := b.median("one service", p.edits, func() func() (time.Duration, error) {
		return b.edit(func(m *mesh) { m.policy = !m.policy })
	})
	if err != nil {
		return err
	}
	p.print(fmt.Sprintf("one service, median of %d", p.edits), one, "", "")
	return p.floor(b)
}

// floor is the row of bare sockets after that of the change with the most
// bytes since the last one.
func (p plan) floor(b *bench) error {
	size := b.most / p.proxies
	b.most = 0
	if size == 0 {
		return nil
	}
	sockets, closeAll, err := b.floor(size, p.proxies)
	if err != nil {
		return err
	}
	defer closeAll()
	err = p.row(b, "  floor: bare sockets", sockets, nil)
	b.most = 0
	return err
}

func (p plan) row(b *bench, what string, work func() (time.Duration, error), memory func() (rss, connection string)) error {
	r, err := b.during(what, work)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	var rss, connection string
	if memory != nil {
		rss, connection = memory()
	}
	p.print(what, r, rss, connection)
	return nil
}

func (p plan) print(what string, r result, rss, connection string) {
	transport := "plaintext"
	if p.secure {
		transport = "mTLS"
	}
	fmt.Printf(layout, p.proxies, transport, what, seconds(r.wall), seconds(r.cpu), strconv.FormatFloat(float64(r.bytes)/1e6, 'f', 2, 64),
		strconv.Itoa(r.resources), strconv.FormatInt(r.peak>>20, 10), rss, connection)
}

// perProxy is a proxy's share in kB.
func perProxy(bytes int64, proxies int) string {
	return strconv.FormatInt(bytes/1000/int64(proxies), 10)
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }
