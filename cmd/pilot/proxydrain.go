package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// proxyTick is the time between questions to Envoy's admin endpoint.
const proxyTick = 200 * time.Millisecond

// envoyAdmin is the admin endpoint of the Envoy in this pod.
type envoyAdmin struct{ port uint16 }

func (a *envoyAdmin) register(cmd *cobra.Command) {
	cmd.Flags().Uint16Var(&a.port, "admin-port", 15000, "of Envoy, on 127.0.0.1")
}

// ask is the answer of 200; any other is an error.
func (a *envoyAdmin) ask(ctx context.Context, method, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d%s", a.port, path), nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("Envoy answers %s: %s", answer.Status, strings.TrimSpace(string(body)))
	}
	return string(body), err
}

func proxyWaitCmd() *cobra.Command {
	var admin envoyAdmin
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "Wait until the Envoy of this pod is ready",
		Long: `Returns as soon as Envoy has what the control plane sends, so that whoever starts after
this has a network.

Exit codes: 0 ready, 2 not within --timeout.`,
		Example: "  pilot proxy wait",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			var last error
			ready := poll(ctx, func() bool {
				_, err := admin.ask(ctx, http.MethodGet, "/ready")
				if err != nil && ctx.Err() == nil {
					last = err
				}
				return err == nil
			})
			if !ready {
				return fmt.Errorf("Envoy is not ready after %s: %w", limit, errors.Join(last, cmd.Context().Err()))
			}
			return nil
		},
	}
	admin.register(cmd)
	cmd.Flags().DurationVar(&limit, "timeout", 10*time.Minute, "how long to wait")
	return cmd
}

func proxyDrainCmd() *cobra.Command {
	var admin envoyAdmin
	var least, most time.Duration
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Let the calls to this pod finish before its Envoy ends",
		Long: `Has Envoy tell its callers to use another connection, while it still takes them. Returns
when at least --at-least has passed and no HTTP request and no TCP connection to the
application is open, or when --at-most has passed.

Exit codes: 0 drained or time is over, 2 Envoy does not answer.`,
		Example: "  pilot proxy drain --at-least 5s --at-most 25s",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := admin.ask(cmd.Context(), http.MethodPost, "/drain_listeners?inboundonly&graceful&skip_exit"); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), most)
			defer cancel()
			earliest := time.Now().Add(least)
			poll(ctx, func() bool {
				if time.Now().Before(earliest) {
					return false
				}
				open, err := admin.open(ctx)
				return err == nil && open == 0
			})
			return nil
		},
	}
	admin.register(cmd)
	cmd.Flags().DurationVar(&least, "at-least", 5*time.Second, "callers need so long to learn that the pod goes away")
	cmd.Flags().DurationVar(&most, "at-most", 28*time.Second, "do not wait longer")
	return cmd
}

// open is how much is under way to the application: HTTP requests, and TCP
// connections, as nobody sees what happens on those.
func (a *envoyAdmin) open(ctx context.Context) (int, error) {
	filter := url.QueryEscape(`^(http\.inbound_.*\.downstream_rq_active|tcp\.inbound_.*\.downstream_cx_active)$`)
	stats, err := a.ask(ctx, http.MethodGet, "/stats?usedonly&filter="+filter)
	if err != nil {
		return 0, err
	}
	sum := 0
	for lines := bufio.NewScanner(strings.NewReader(stats)); lines.Scan(); {
		if _, value, ok := strings.Cut(lines.Text(), ": "); ok {
			n, err := strconv.Atoi(value)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}

// poll asks until the answer is yes; false if ctx ends before.
func poll(ctx context.Context, done func() bool) bool {
	tick := time.NewTicker(proxyTick)
	defer tick.Stop()
	for {
		if done() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}
