package app

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

const (
	// waitHeader asks the application for an answer that takes so long.
	waitHeader = "X-Lab-Wait"
	longest    = time.Minute
	longestEnd = 2 * time.Second // of a stream
	// streamPath ends the path of a stream that is echoed.
	streamPath = "/Stream"
)

// waitAsAsked waits as the caller wishes, and says whether it is still there.
func waitAsAsked(r *http.Request) bool {
	wait, err := time.ParseDuration(r.Header.Get(waitHeader))
	if err != nil {
		return true // it asks for none
	}
	timer := time.NewTimer(min(wait, longest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// echoStream sends back what arrives, as it arrives, until the caller ends it.
func echoStream(w http.ResponseWriter, r *http.Request) {
	flush := http.NewResponseController(w)
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	_ = flush.Flush() // an error comes again from the next write
	buf := make([]byte, 1<<10)
	for {
		n, err := r.Body.Read(buf)
		if _, failed := w.Write(buf[:n]); failed != nil || flush.Flush() != nil {
			return
		}
		if err != nil {
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", grpcOK)
			return
		}
	}
}

// Slow makes one HTTP request that the application answers after wait.
func (c *Client) Slow(ctx context.Context, wait time.Duration) (Echo, error) {
	if !c.target.Protocol.IsHTTP() {
		return Echo{}, fmt.Errorf("no slow requests by %s", c.target.Protocol)
	}
	return c.callHTTP(ctx, false, wait)
}

// Long is one connection or stream that stays open.
type Long struct {
	echo  func(ctx context.Context, text string) error
	close func()
}

// Long opens a connection of lines or of TLS, or a stream of HTTP/2 or gRPC;
// nil for HTTP/1.1, which has nothing that outlives a request.
func (c *Client) Long(ctx context.Context) (*Long, error) {
	switch p := c.target.Protocol; {
	case p.IsHTTP2():
		return c.longStream(ctx)
	case p.IsHTTP():
		return nil, nil
	case p == model.HTTPS || p == model.TLS:
		return c.longTLS(ctx)
	}
	conn, err := c.openLines(ctx)
	if err != nil {
		return nil, err
	}
	return &Long{
		echo:  func(ctx context.Context, text string) error { _, err := conn.call(ctx, text); return err },
		close: func() { conn.Close() },
	}, nil
}

// Echo sends text through and waits for it to come back.
func (l *Long) Echo(ctx context.Context, text string) error { return l.echo(ctx, text) }

// Close ends it as an application does that has no more to say.
func (l *Long) Close() { l.close() }

func (c *Client) longStream(ctx context.Context) (*Long, error) {
	in, out := io.Pipe()
	alive, end := context.WithCancel(context.WithoutCancel(ctx))
	path, kind := streamPath, "application/octet-stream"
	if c.target.Protocol == model.GRPC {
		path, kind = "/pilot.lab.Echo"+streamPath, grpcContentType
	}
	req, err := http.NewRequestWithContext(alive, http.MethodPost, "http://"+c.target.authority()+path, in)
	if err != nil {
		end()
		return nil, err
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Te", "trailers")
	limit := context.AfterFunc(ctx, end) // ctx bounds the start only
	resp, err := c.kept.RoundTrip(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		err = errors.Join(refusal(resp.StatusCode, body), resp.Body.Close())
	} else if err == nil && resp.Header.Get("Grpc-Status") != "" { // trailers only: there is no stream
		_, err = grpcAnswer(resp)
		err = errors.Join(err, resp.Body.Close())
	}
	limit()
	if err != nil {
		end()
		return nil, err
	}
	return &Long{
		echo: func(ctx context.Context, text string) error {
			defer context.AfterFunc(ctx, end)()
			message, err := frame([]byte(text))
			if err != nil {
				return err
			}
			if _, err := out.Write(message); err != nil {
				return err
			}
			got := make([]byte, len(message))
			if _, err := io.ReadFull(resp.Body, got); err != nil {
				return fmt.Errorf("the stream ended: %w", err)
			}
			if !bytes.Equal(got, message) {
				return fmt.Errorf("not what was sent: %.100q", got)
			}
			return nil
		},
		close: func() {
			defer time.AfterFunc(longestEnd, end).Stop()
			_ = out.Close()
			_, _ = io.Copy(io.Discard, resp.Body) // until the application ends it too
			_ = resp.Body.Close()
			end()
			c.kept.CloseIdleConnections()
		},
	}, nil
}

// longTLS is a connection with TLS of the application's own, HTTP/1.1 in it.
func (c *Client) longTLS(ctx context.Context) (*Long, error) {
	conn, err := Secured(c.dial, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})(ctx, c.target.Address)
	if err != nil {
		return nil, err
	}
	answers := bufio.NewReader(conn)
	return &Long{
		echo: func(ctx context.Context, _ string) error {
			defer endWith(ctx, conn)()
			req, err := c.request(ctx)
			if err != nil {
				return err
			}
			if err := req.Write(conn); err != nil {
				return err
			}
			resp, err := http.ReadResponse(answers, req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = c.read(resp)
			return err
		},
		close: func() { conn.Close() },
	}, nil
}
