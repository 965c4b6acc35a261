package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"time"
)

// floor sends as many bytes to as many connections with nothing but sockets
// (and TLS), and takes one byte as each one's answer: what no server of this
// kind can be faster than on the machine as loaded as it is now.
// The second function closes the connections, which is not part of it.
func (b *bench) floor(size, proxies int) (work func() (time.Duration, error), closeAll func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	opened := make(chan error, 1)
	go func() {
		_, err := b.children.do(fmt.Sprintf("floor %s %d", l.Addr(), size))
		opened <- err
	}()
	conns := make([]net.Conn, proxies)
	for i := range conns {
		if conns[i], err = l.Accept(); err != nil {
			return nil, nil, err
		}
		if b.tls != nil {
			config := b.tls.Clone()
			config.DynamicRecordSizingDisabled = true // as on a connection that has sent much
			conns[i] = tls.Server(conns[i], config)
		}
		if _, err := conns[i].Read(make([]byte, 1)); err != nil { // also shakes hands
			return nil, nil, err
		}
	}
	if err := <-opened; err != nil {
		return nil, nil, err
	}
	payload := make([]byte, size)
	closeAll = func() {
		for _, c := range conns {
			c.Close()
		}
	}
	return func() (time.Duration, error) {
		begin := time.Now()
		var senders sync.WaitGroup
		workers := runtime.GOMAXPROCS(0)
		for w := range workers {
			senders.Go(func() {
				for i := w; i < len(conns); i += workers {
					_, _ = conns[i].Write(payload) // a failure shows below
				}
			})
		}
		senders.Wait()
		for _, c := range conns {
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				return 0, err
			}
		}
		return time.Since(begin), nil
	}, closeAll, nil
}

// floor is the other side: connections that read so many bytes and answer
// with one.
func (f *fleet) floor(arguments string) error {
	var address string
	var size int
	if _, err := fmt.Sscan(strings.TrimPrefix(arguments, "floor "), &address, &size); err != nil {
		return err
	}
	for i := range f.Proxies {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		if f.Secure {
			config, err := f.tls(i)
			if err != nil {
				return err
			}
			conn = tls.Client(conn, config)
		}
		if _, err := conn.Write([]byte{1}); err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			buffer := make([]byte, 32<<10)
			for left := size; left > 0; {
				n, err := conn.Read(buffer)
				if err != nil {
					return
				}
				left -= n
				f.bytes.Add(int64(n))
			}
			_, _ = conn.Write([]byte{1})
			_, _ = conn.Read(buffer) // until the other side closes
		}()
	}
	return nil
}
