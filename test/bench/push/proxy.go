package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshpilot/pilot/pkg/translate"
)

// proxy is a delta client of its own, one connection and one stream: it walks
// through responses without building messages and acknowledges each. A
// client of grpc's costs several times the server.
type proxy struct {
	fleet  *fleet
	node   string
	tls    *tls.Config
	conn   net.Conn
	framer *http2.Framer
	out    *bufio.Writer
	closed bool
	mu     sync.Mutex

	asked    map[string]bool
	answered map[string]int // responses by type URL
	ready    bool
	held     map[string][]byte // by type URL: initial_resource_versions, encoded
	message  *[]byte           // what came of the current one
	unread   int               // bytes that the windows have to get back
}

const window = 16 << 20

func (f *fleet) newProxy(i int) (*proxy, error) {
	p := &proxy{fleet: f, node: f.node(i)}
	if f.Secure {
		var err error
		if p.tls, err = f.tls(i); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// connect opens the stream and asks for clusters, or, with what it holds from
// before, for everything.
func (p *proxy) connect(again bool) error {
	conn, err := net.Dial("tcp", p.fleet.Address)
	if err != nil {
		return err
	}
	if p.tls != nil {
		conn = tls.Client(conn, p.tls)
	}
	p.conn, p.closed, p.ready, p.message, p.unread = conn, false, false, nil, 0
	p.asked, p.answered = map[string]bool{}, map[string]int{}
	if !again {
		p.held = map[string][]byte{}
	}
	p.out = bufio.NewWriterSize(conn, 16<<10)
	p.framer = http2.NewFramer(p.out, bufio.NewReaderSize(conn, 64<<10))
	p.framer.SetReuseFrames()
	p.framer.SetMaxReadFrameSize(1 << 20)
	if _, err := p.out.WriteString(http2.ClientPreface); err != nil {
		return err
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":authority", "bench"},
		{":path", "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		if err := encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			return err
		}
	}
	err = errors.Join(
		p.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}),
		p.framer.WriteWindowUpdate(0, window),
		p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}),
		p.ask(translate.ClusterType),
	)
	if again {
		for _, url := range []string{translate.EndpointType, translate.ListenerType, translate.SecretType, translate.RouteType} {
			err = errors.Join(err, p.ask(url))
		}
	}
	return errors.Join(err, p.out.Flush())
}

func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.conn.Close()
}

// ask subscribes to what there is of a type, once.
func (p *proxy) ask(url string) error {
	if p.asked[url] {
		return nil
	}
	var request []byte
	if len(p.asked) == 0 {
		request = protowire.AppendTag(request, 1, protowire.BytesType)
		request = protowire.AppendBytes(request, protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), p.node))
	}
	p.asked[url] = true
	request = protowire.AppendString(protowire.AppendTag(request, 2, protowire.BytesType), url)
	for _, name := range p.fleet.names[url] {
		request = protowire.AppendString(protowire.AppendTag(request, 3, protowire.BytesType), name)
	}
	return p.send(append(request, p.held[url]...))
}

func (p *proxy) acknowledge(url, nonce []byte) error {
	request := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), url)
	return p.send(protowire.AppendBytes(protowire.AppendTag(request, 6, protowire.BytesType), nonce))
}

func (p *proxy) send(request []byte) error {
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request)))
	frame = append(frame, request...)
	for len(frame) > 0 {
		n := min(len(frame), 16<<10)
		if err := p.framer.WriteData(1, false, frame[:n]); err != nil {
			return err
		}
		frame = frame[n:]
	}
	return nil
}

// read takes frames until the connection ends.
func (p *proxy) read() {
	var err error
	for err == nil {
		var frame http2.Frame
		if frame, err = p.framer.ReadFrame(); err != nil {
			break
		}
		switch frame := frame.(type) {
		case *http2.DataFrame:
			err = p.data(frame.Data())
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = errors.Join(p.framer.WriteSettingsAck(), p.out.Flush())
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = errors.Join(p.framer.WritePing(true, frame.Data), p.out.Flush())
			}
		case *http2.GoAwayFrame, *http2.RSTStreamFrame:
			err = fmt.Errorf("the server ended the stream: %v", frame)
		case *http2.HeadersFrame:
			if frame.StreamEnded() {
				err = errors.New("the server ended the stream")
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		fmt.Fprintln(os.Stderr, "push:", p.node, err)
	}
}

func (p *proxy) data(data []byte) error {
	p.unread += len(data)
	if p.unread > window/2 {
		if err := errors.Join(p.framer.WriteWindowUpdate(0, uint32(p.unread)), p.framer.WriteWindowUpdate(1, uint32(p.unread)), p.out.Flush()); err != nil {
			return err
		}
		p.unread = 0
	}
	if p.message == nil {
		p.message = buffers.Get().(*[]byte)
	}
	message := append(*p.message, data...)
	for len(message) >= 5 {
		size := int(binary.BigEndian.Uint32(message[1:5]))
		if len(message) < 5+size {
			break
		}
		if err := p.response(message[5 : 5+size]); err != nil {
			return err
		}
		message = append(message[:0], message[5+size:]...)
	}
	*p.message = message
	if len(message) == 0 {
		buffers.Put(p.message)
		p.message = nil
	}
	return nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 64<<10); return &b }}

// response counts what is in a response, acknowledges it and asks for what
// Envoy would ask for next.
func (p *proxy) response(m []byte) error {
	var url, nonce []byte
	count := 0
	var resources [][]byte
	for rest := m; len(rest) > 0; {
		number, _, n := protowire.ConsumeTag(rest)
		value, size := protowire.ConsumeBytes(rest[n:])
		if n < 0 || size < 0 {
			return errors.New("malformed response")
		}
		rest = rest[n+size:]
		switch number {
		case 2:
			count++
			if p.fleet.recording {
				resources = append(resources, value)
			}
		case 4:
			url = value
		case 5:
			nonce = value
		}
	}
	p.record(string(url), resources)
	p.fleet.bytes.Add(int64(len(m)))
	p.fleet.resources.Add(int64(count))
	p.answered[string(url)]++
	err := p.acknowledge(url, nonce)
	switch string(url) {
	case translate.ClusterType:
		err = errors.Join(err, p.ask(translate.EndpointType), p.ask(translate.SecretType), p.ask(translate.ListenerType))
	case translate.ListenerType:
		err = errors.Join(err, p.ask(translate.RouteType))
	}
	if !p.ready && p.hasAll() {
		p.ready = true
		p.fleet.ready.Done()
	}
	return errors.Join(err, p.out.Flush())
}

// hasAll says that the proxy got its configuration; one that held it is told
// so for clusters and listeners.
func (p *proxy) hasAll() bool {
	if len(p.held) > 0 && !p.fleet.recording {
		return p.answered[translate.ClusterType] > 0 && p.answered[translate.ListenerType] > 0
	}
	return p.answered[translate.RouteType] > 0 && p.answered[translate.EndpointType] > 0 && p.answered[translate.SecretType] > 1
}

// record notes resources as the next connection has to state them.
func (p *proxy) record(url string, resources [][]byte) {
	for _, r := range resources {
		var name, version []byte
		for rest := r; len(rest) > 0; {
			number, _, n := protowire.ConsumeTag(rest)
			value, size := protowire.ConsumeBytes(rest[n:])
			if n < 0 || size < 0 {
				return
			}
			rest = rest[n+size:]
			switch number {
			case 1:
				version = value
			case 3:
				name = value
			}
		}
		entry := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), name)
		entry = protowire.AppendBytes(protowire.AppendTag(entry, 2, protowire.BytesType), version)
		p.held[url] = protowire.AppendBytes(protowire.AppendTag(p.held[url], 5, protowire.BytesType), entry)
	}
}
