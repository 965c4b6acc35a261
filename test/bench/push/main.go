// Command push measures how a running control plane sends changes to many
// proxies: the server in this process, the proxies in another, over real gRPC
// on loopback. The server is pilot's own, from an edited bundle to the last
// acknowledgement, so compiling and translating are in the figures, and so is
// the 100 ms for which an edit waits for others.
package main

import (
	"errors"
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
	rounds := flag.Int("rounds", 3, "mesh-wide flips each way, and changes of one service")
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
		fatal(measure(*services, count, secure, *rounds, *profiles))
		return
	}
	fmt.Printf("%d services, 50 namespaces; wall is from the edit to the last ACK, and an edit waits 100 ms for others\n", *services)
	fmt.Printf(layout, "proxies", "transport", "measure", "wall s", "CPU s", "MB", "resources", "peak MiB", "kB a proxy: RSS", "connection")
	for _, n := range strings.Split(*proxies, ",") {
		for _, t := range strings.Split(*transports, ",") {
			// A process of its own, so that no memory of another size is in the figures.
			run := exec.Command(os.Args[0], "-one", "-services", strconv.Itoa(*services), "-proxies", n, "-tls", t,
				"-rounds", strconv.Itoa(*rounds), "-profiles", *profiles)
			run.Stdout, run.Stderr = os.Stdout, os.Stderr
			fatal(run.Run())
		}
	}
}

const layout = "%-8v %-10s %-24s %8s %8s %9s %10s %9s %16s %12s\n"

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "push:", err)
		os.Exit(1)
	}
}

// measure runs all measurements of one size and prints a row for each.
func measure(services, proxies int, secure bool, rounds int, profiles string) error {
	b, err := start(services, proxies, secure)
	if err != nil {
		return err
	}
	defer b.stop()
	b.profiles = profiles
	transport := "plaintext"
	if secure {
		transport = "mTLS"
	}
	most := 0 // bytes of a change
	row := func(what string, work func() (time.Duration, error), memory func() (rss, connection string)) error {
		r, err := b.during(what, work)
		most = max(most, r.bytes)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		var rss, connection string
		if memory != nil {
			rss, connection = memory()
		}
		fmt.Printf(layout, proxies, transport, what, seconds(r.wall), seconds(r.cpu), strconv.FormatFloat(float64(r.bytes)/1e6, 'f', 2, 64),
			strconv.Itoa(r.resources), strconv.FormatInt(r.peak>>20, 10), rss, connection)
		return nil
	}
	if _, err := b.children.do("learn"); err != nil {
		return err
	}
	before := b.memory()
	err = row("first connect", func() (time.Duration, error) { return b.children.do("connect") }, func() (string, string) {
		return perProxy(b.memory().rss-before.rss, proxies), ""
	})
	for range rounds {
		for _, on := range []bool{true, false} {
			err = errors.Join(err, row(fmt.Sprintf("all clusters, mTLS %v", on), b.edit(func(m *mesh) { m.mutual = on }), nil))
		}
	}
	for range min(rounds, 1) {
		sockets, ferr := b.floor(most/proxies, proxies)
		if ferr != nil {
			return ferr
		}
		err = errors.Join(err, row("  floor: bare sockets", sockets, nil))
	}
	for i := range rounds {
		err = errors.Join(err, row("one service", b.edit(func(m *mesh) { m.policy = i%2 == 0 }), nil))
	}
	if err != nil {
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
	return row("reconnect, unchanged", func() (time.Duration, error) { return b.children.do("reconnect") }, func() (string, string) {
		return perProxy(b.memory().rss-before.rss, proxies), perProxy(connected-alone, proxies)
	})
}

// perProxy is a proxy's share in kB.
func perProxy(bytes int64, proxies int) string {
	return strconv.FormatInt(bytes/1000/int64(proxies), 10)
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }
