package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/service/metrics/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshpilot/pilot/pkg/model"
)

// quiet is the quiet period of gated changes: the shortest, as what follows is
// the control plane's own time.
const quiet = time.Second

// phased are the rows of changes of mode that are carried out in phases, with
// the time at which the last target had entered each.
func (p plan) phased(b *bench) error {
	if _, err := b.children.do("tell"); err != nil {
		return err
	}
	for _, change := range []struct {
		what string
		edit func(*mesh)
	}{
		{"gated, one service on", func(m *mesh) { m.policy = true }},
		{"gated, one service off", func(m *mesh) { m.policy = false }},
		{"gated, all on", func(m *mesh) { m.mutual = true }},
		{"gated, all off", func(m *mesh) { m.mutual = false }},
	} {
		change.edit(&b.mesh)
		bundle := b.mesh.bundle()
		var steps string
		if err := p.row(b, change.what, func() (wall time.Duration, err error) {
			begin := time.Now()
			b.bundles <- bundle
			steps, wall, err = b.follow(begin)
			return wall, err
		}, nil); err != nil {
			return err
		}
		fmt.Println("  last target entered:", steps)
	}
	return nil
}

// follow waits until all targets are where their modes end.
func (b *bench) follow(begin time.Time) (steps string, wall time.Duration, err error) {
	before := map[model.Target]model.Phase{}
	last := map[model.Phase]time.Duration{}
	var order []model.Phase
	for began := false; time.Since(begin) < 2*time.Minute; time.Sleep(20 * time.Millisecond) {
		open := 0
		for _, r := range b.server.Rollouts() {
			phase := r.Wanted.Decision.Phase
			if !r.Settled {
				open++
			}
			if was, ok := before[r.Wanted.Target]; ok && was != phase {
				if _, known := last[phase]; !known {
					order = append(order, phase)
				}
				last[phase] = time.Since(begin)
			}
			before[r.Wanted.Target] = phase
		}
		began = began || open > 0
		if began && open == 0 {
			for _, phase := range order {
				steps += fmt.Sprintf("%d %s %.2f s  ", phase, phase, last[phase].Seconds())
			}
			return steps, time.Since(begin), nil
		}
	}
	for _, r := range b.server.Rollouts() {
		if len(r.Waits) > 0 {
			return "", 0, fmt.Errorf("%v waits for %v", r.Wanted.Target, r.Waits[0])
		}
	}
	return "", 0, errors.New("no target moved, or not all settled, within 2 minutes")
}

// tell opens the streams of evidence of all proxies: no traffic, and stats
// that say so every second.
func (f *fleet) tell() error {
	for i := range f.proxies {
		creds := insecure.NewCredentials()
		if f.Secure {
			config, err := f.tls(i)
			if err != nil {
				return err
			}
			creds = credentials.NewTLS(config)
		}
		conn, err := grpc.NewClient(f.Address, grpc.WithTransportCredentials(creds), grpc.WithReadBufferSize(1<<10), grpc.WithWriteBufferSize(4<<10))
		if err != nil {
			return err
		}
		node := &corev3.Node{Id: f.node(i), Cluster: "istio-proxy",
			Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"TRAFFIC_STATS": structpb.NewBoolValue(true)}}}
		logs, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(context.Background())
		if err != nil {
			return err
		}
		if err := logs.Send(&alsv3.StreamAccessLogsMessage{Identifier: &alsv3.StreamAccessLogsMessage_Identifier{Node: node, LogName: "plain"}}); err != nil {
			return err
		}
		stats, err := metricsv3.NewMetricsServiceClient(conn).StreamMetrics(context.Background())
		if err != nil {
			return err
		}
		go func() {
			m := &metricsv3.StreamMetricsMessage{Identifier: &metricsv3.StreamMetricsMessage_Identifier{Node: node}}
			for stats.Send(m) == nil {
				m.Identifier = nil
				time.Sleep(time.Second)
			}
		}()
	}
	return nil
}
