package ads

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/pkg/translate"
)

// A proxy that does not read keeps the one place that there is for a second,
// and is ended after the timeout; others are sent to all the while.
func TestSlowReader(t *testing.T) {
	inBed(t, StoreOptions{InFlight: 1, SendTimeout: 30 * time.Second}, func(t *testing.T, b *bed) {
		m := simple()
		for i := range 500 {
			m = m.edited("a", translate.ClusterType, fmt.Sprintf("big-%d", i), "v1"+strings.Repeat("x", 2000)).
				edited("a", translate.EndpointType, fmt.Sprintf("big-%d", i), "v1"+strings.Repeat("x", 2000))
		}
		b.apply(m)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		conn := b.conn(grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
		slow, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
		if err != nil {
			t.Fatal(err)
		}
		names := []string{"out-1"}
		for i := range 500 {
			names = append(names, fmt.Sprintf("big-%d", i))
		}
		for _, r := range []*discoveryv3.DeltaDiscoveryRequest{
			{Node: &corev3.Node{Id: "a/1"}, TypeUrl: translate.ClusterType},
			{TypeUrl: translate.EndpointType, ResourceNamesSubscribe: names},
		} {
			if err := slow.Send(r); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		start := time.Now()
		e := b.envoy(fakeenvoy.Options{}, "b/1")
		pass(slot)
		if got := trace(e.Responses()); len(got) < 5 {
			t.Errorf("after %v the other proxy has %v", time.Since(start), got)
		}
		b.apply(m.edited("b", translate.ClusterType, "only-b", "v2"))
		if got := trace(e.Responses()); got[len(got)-1] != "CDS only-b" {
			t.Errorf("the next push: %v", got)
		}
		pass(30 * time.Second)
		if ended := b.last(Disconnected); ended.Node != "a/1" || !strings.Contains(ended.Detail, "took nothing") {
			t.Errorf("event: %+v", ended)
		}
		for err = nil; err == nil; _, err = slow.Recv() {
		}
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("slow stream: %v", err)
		}
		if e.Err() != nil {
			t.Errorf("other stream: %v", e.Err())
		}
	})
}
