package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// keptFor is how long a connection of lines is kept: no proxy can move one, so
// applications replace theirs once in a while.
const keptFor = 3 * time.Second

// lineConn is an open connection to a line application.
type lineConn struct {
	net.Conn
	in     *bufio.Reader
	opened time.Time
	used   time.Time // when it was answered last; zero: never
}

// CutError is of a call on a kept connection, which may have ended at any time
// since it was used last.
type CutError struct {
	Used time.Time
	Err  error
}

// Error is that of the call.
func (e *CutError) Error() string { return e.Err.Error() }

// Unwrap is the error of the call.
func (e *CutError) Unwrap() error { return e.Err }

func (c *Client) callLine(ctx context.Context, keepAlive bool) (Echo, error) {
	if !keepAlive {
		conn, err := c.openLines(ctx)
		if err != nil {
			return Echo{}, err
		}
		defer conn.Close()
		return conn.call(ctx, c.name)
	}
	if c.lines != nil && time.Since(c.lines.opened) > keptFor {
		c.dropLines()
	}
	if c.lines == nil {
		conn, err := c.openLines(ctx)
		if err != nil {
			return Echo{}, err
		}
		c.lines = conn
	}
	echo, err := c.lines.call(ctx, c.name)
	if err != nil {
		if used := c.lines.used; !used.IsZero() {
			err = &CutError{used, err}
		}
		c.dropLines()
		return Echo{}, err
	}
	c.lines.used = time.Now()
	return echo, nil
}

func (c *Client) dropLines() {
	if c.lines != nil {
		c.lines.Close()
		c.lines = nil
	}
}

func (c *Client) openLines(ctx context.Context) (*lineConn, error) {
	raw, err := c.dial(ctx, c.target.Address)
	if err != nil {
		return nil, err
	}
	conn := &lineConn{Conn: raw, in: bufio.NewReader(raw), opened: time.Now()}
	if !c.target.Protocol.ServerFirst() {
		return conn, nil
	}
	if _, err := conn.line(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("greeting: %w", err)
	}
	return conn, nil
}

func (c *lineConn) call(ctx context.Context, text string) (Echo, error) {
	if _, err := io.WriteString(c, text+"\n"); err != nil {
		return Echo{}, err
	}
	line, err := c.line(ctx)
	if err != nil {
		return Echo{}, err
	}
	name, body, _ := strings.Cut(line, " ")
	if body != text {
		return Echo{}, fmt.Errorf("not the application's answer: %.100q", line)
	}
	return Echo{
		Name: strings.ReplaceAll(name, tlsMark, ""), TLS: strings.Count(name, tlsMark), Protocol: "lines", Body: body,
	}, nil
}

func (c *lineConn) line(ctx context.Context) (string, error) {
	defer endWith(ctx, c)()
	line, err := c.in.ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = errors.New("closed without an answer")
	}
	return strings.TrimSuffix(line, "\n"), err
}

// connect opens a tunnel to authority through an HTTP proxy.
func connect(ctx context.Context, dial Dial, proxy, authority string) (net.Conn, error) {
	conn, err := dial(ctx, proxy)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if err := tunnel(ctx, conn, authority); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func tunnel(ctx context.Context, conn net.Conn, authority string) error {
	defer endWith(ctx, conn)()
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority); err != nil {
		return err
	}
	// One byte at a time: what follows the head is the server's.
	resp, err := http.ReadResponse(bufio.NewReaderSize(oneByte{conn}, 16), nil)
	if err != nil {
		return fmt.Errorf("CONNECT: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("CONNECT: status %d", resp.StatusCode)
	}
	return nil
}

// endWith fails what is waiting on conn when ctx ends, until it is undone.
func endWith(ctx context.Context, conn net.Conn) (undo func()) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// oneByte reads at most one byte at a time, so that nothing is buffered.
type oneByte struct{ io.Reader }

func (r oneByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(1, len(p))]) }
