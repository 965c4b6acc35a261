package feed

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	start     = datav3.AccessLogType_DownstreamStart
	periodic  = datav3.AccessLogType_DownstreamPeriodic
	end       = datav3.AccessLogType_DownstreamEnd
	connected = datav3.AccessLogType_TcpUpstreamConnected
	lasting   = datav3.AccessLogType_TcpPeriodic
	closed    = datav3.AccessLogType_TcpConnectionEnd
)

func TestPeers(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		begin := time.Now()
		plain := b.logs("shop/cart", "plain")
		plain.http(common("10.0.0.7", 80, start), common("10.0.0.7", 80, start), common("10.0.0.8", 80, start))
		time.Sleep(time.Minute)
		plain.http(common("10.0.0.7", 80, periodic))
		b.logs("shop/cart", "refuse").http(common("10.0.0.9", 80, end))
		b.logs("shop/cart", "app-tls").tcp(common("::ffff:10.0.0.9", 443, connected))

		p := b.of()
		http := p.Port(80)
		if got, want := fmt.Sprint(short(http.Peers)), "[10.0.0.9 refused 1 10.0.0.7 plain 2 10.0.0.8 plain 1]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if first, last := http.Peers[1].First, http.Peers[1].Last; !first.Equal(begin) || !last.Equal(begin.Add(time.Minute)) {
			t.Errorf("seen from %s to %s", first, last)
		}
		if !http.LastPlain.Equal(begin) {
			t.Errorf("plaintext began last at %s: what lasts, or is refused, begins none", http.LastPlain)
		}
		if got, want := fmt.Sprint(short(p.Port(443).Peers)), "[10.0.0.9 app-tls 1]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if p.Records != 6 || p.Excess != 0 {
			t.Errorf("%d records, %d in excess", p.Records, p.Excess)
		}
	})
}

func short(peers []Peer) (out []string) {
	for _, p := range peers {
		out = append(out, fmt.Sprintf("%s %s %d", p.Address, p.Kind, p.Count))
	}
	return out
}

// A connection counts once, whatever is told of it.
func TestConnectionsCountOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		log := b.logs("shop/cart", "plain")
		served := common("10.0.0.7", 3306, closed)
		served.UpstreamRemoteAddress = address("127.0.0.1", 3306)
		log.tcp(common("10.0.0.7", 3306, connected), common("10.0.0.7", 3306, lasting), served)
		log.tcp(common("10.0.0.8", 3306, closed)) // the application was not there
		if got, want := fmt.Sprint(short(b.of().Port(3306).Peers)), "[10.0.0.8 plain 1 10.0.0.7 plain 1]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// What a probe asks for is let in whatever the mode.
func TestProbesAreNoEvidence(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		probe := common("10.0.0.7", 80, start)
		probe.RouteName = "probe"
		b.logs("shop/cart", "plain").http(probe)
		if p := b.of(); len(p.Ports) != 0 || p.Records != 1 {
			t.Errorf("got %+v", p)
		}
	})
}

func TestPortsThatNothingNames(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		b.logs("shop/cart", "plain-other").tcp(common("10.0.0.7", 9000, connected), common("10.0.0.7", 9001, connected))
		p := b.of()
		peers := p.Port(0).Peers
		if len(p.Ports) != 1 || len(peers) != 2 || peers[0].Port != 9001 || peers[1].Port != 9000 {
			t.Errorf("got %+v", p)
		}
	})
}

func TestPeersAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		log := b.logs("shop/cart", "plain")
		for i := range 20 {
			log.http(common(fmt.Sprintf("10.0.0.%d", i), 80, start), common(fmt.Sprintf("10.0.0.%d", i), 80, start))
		}
		got := b.of().Port(80)
		if len(got.Peers) != 16 || got.Others != 8 || got.Peers[0].Address != "10.0.0.19" || got.Peers[15].Address != "10.0.0.4" {
			t.Errorf("%d peers from %s, %d others", len(got.Peers), got.Peers[0].Address, got.Others)
		}
		time.Sleep(10 * time.Second) // the budget is full again
		for port := uint32(1000); port < 1400; port++ {
			log.tcp(common("10.0.0.1", port, connected))
		}
		if n := len(b.of().Ports); n != maxPorts {
			t.Errorf("%d ports", n)
		}
	})
}

// Records beyond the budget are counted and make a gap, except refusals:
// whoever is refused often must not hide that nothing else came.
func TestBudget(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		begin := time.Now()
		time.Sleep(time.Second)
		many := make([]*datav3.AccessLogCommon, 300)
		for i := range many {
			many[i] = common("10.0.0.7", 80, end)
		}
		refuse, plain := b.logs("shop/cart", "refuse"), b.logs("shop/cart", "plain")
		joined := b.of().Logs
		time.Sleep(time.Second)
		refuse.http(many...)
		refuse.http(many...)
		if p := b.of(); p.Records != 500 || p.Excess != 100 || !p.Logs.Equal(joined) || joined.Equal(begin) {
			t.Errorf("refusals: %d records, %d in excess, no gap since %s", p.Records, p.Excess, p.Logs)
		}
		plain.http(many...)
		if p := b.of(); p.Records != 800 || p.Excess != 100 {
			t.Errorf("plaintext: %d records, %d in excess", p.Records, p.Excess)
		}
		plain.http(many...)
		if p := b.of(); p.Records != 1000 || p.Excess != 200 || !p.Logs.Equal(time.Now()) {
			t.Errorf("plaintext: %d records, %d in excess, no gap since %s", p.Records, p.Excess, p.Logs)
		}
		time.Sleep(time.Second)
		plain.http(many...)
		if p := b.of(); p.Records != 1250 || p.Excess != 250 {
			t.Errorf("a second later: %d records, %d in excess", p.Records, p.Excess)
		}
	})
}

func TestRefusedStreams(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		b.denied["shop/stolen"] = true
		for id, want := range map[string]codes.Code{"shop/stolen": codes.PermissionDenied, "nobody": codes.InvalidArgument} {
			if err := b.logs(id, "plain").ended(); status.Code(err) != want {
				t.Errorf("logs of %s: %v, want %s", id, err, want)
			}
			s := b.stats(id)
			s.flush(nil)
			if _, err := s.CloseAndRecv(); status.Code(err) != want {
				t.Errorf("stats of %s: %v, want %s", id, err, want)
			}
		}
		if err := b.logs("shop/cart", "mine").ended(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a log of an unknown name: %v", err)
		}
		if n := len(b.feed.proxies); n != 0 {
			t.Errorf("%d proxies", n)
		}
		// A certificate may stop being good while the stream lives.
		log := b.logs("shop/cart", "plain")
		b.denied["shop/cart"] = true
		log.http(common("10.0.0.7", 80, start))
		if err := log.ended(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a stream whose certificate is bad now: %v", err)
		}
		if p := b.of(); len(p.Ports) > 0 || !p.Logs.IsZero() {
			t.Errorf("it is believed: %+v", p)
		}
	})
}

func TestMalformed(t *testing.T) {
	for _, data := range []string{"\x12\x05ab", "\x12", "\xff", "\x1a\x02\x0a\x7f"} {
		p := &proxy{ports: map[uint16]*traffic{}}
		if _, err := p.records([]byte(data), log{}, time.Now()); err == nil {
			t.Errorf("%q is taken", data)
		}
	}
	for entry := range 256 {
		readEntry([]byte{byte(entry), 3, byte(entry), 1, 1})
	}
}

func TestRetain(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		gone := b.logs("shop/cart", "plain")
		b.logs("shop/open", "plain")
		gone.cancel()
		synctest.Wait()
		b.feed.Retain(known)
		if _, ok := b.feed.Of(cart); !ok {
			t.Error("a workload that is known is forgotten")
		}
		b.feed.Retain(unknown)
		if _, ok := b.feed.Of(cart); ok || len(b.feed.proxies) != 1 {
			t.Error("a workload that is gone is kept, or one with a stream is not")
		}
	})
}
