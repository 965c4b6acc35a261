// Package kube is the source that follows a Kubernetes cluster, and publishes
// complete bundles only: the mesh settings, what runs, and the custom resources
// that are installed.
//
// It lists and watches configmaps (istio, in its namespace; it creates that if
// there is none), services, pods, namespaces, serviceaccounts, discovery.k8s.io
// endpointslices, apiextensions.k8s.io customresourcedefinitions,
// authentication.istio.io policies and meshpolicies, security.istio.io
// peerauthentications, and networking.istio.io destinationrules, serviceentries, workloadentries.
package kube

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
)

// Source follows one cluster.
type Source struct {
	Cluster *cluster.Cluster
	// Namespace has the ConfigMap istio.
	Namespace string
	// Initial are the mesh settings that the ConfigMap gets if there is none at
	// the start; empty: none is made.
	Initial string
	// Settle is how long changes are gathered before they are published; 0 is
	// 30 ms.
	Settle time.Duration
	// Hold is the longest time that the endpoints of a service stay in force
	// that vanished without a deletion event; 0 is a minute.
	Hold time.Duration
	// Confirm is when a second list is asked whether they are gone indeed; 0 is
	// 10 s.
	Confirm time.Duration
	// Log gets what is no problem of the configuration; nil is slog.Default.
	Log *slog.Logger
}

// patience is how long the start may take before the log says what it waits
// for.
const patience = 10 * time.Second

var _ meshconfig.Source = (*Source)(nil)

// Run publishes what the cluster holds as soon as all of it was read, and
// again whenever it changed, until ctx ends. What RBAC denies is a problem and
// waited for no longer; an API server that does not answer is waited for. Mesh
// settings with an error, or that may not be read, end the start with an
// error that lists everything; later ones keep the last accepted version in
// force.
func (s *Source) Run(ctx context.Context, publish func(meshconfig.Bundle, []meshconfig.Problem)) error {
	ctx, cancel := context.WithCancel(ctx)
	w, err := newWatcher(s)
	if err != nil {
		cancel()
		return err
	}
	defer w.close()
	defer cancel()
	w.start(ctx)
	settle, due := stopped(), stopped()
	defer settle.Stop()
	defer due.Stop()
	slow := time.NewTimer(patience)
	defer slow.Stop()
	gathering, begun := false, false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
			if !gathering { // a steady stream of changes must not delay for ever
				settle.Reset(cmp.Or(s.Settle, 30*time.Millisecond))
				gathering = true
			}
			continue
		case a := <-w.answers:
			w.adopt(ctx, a)
			continue
		case <-slow.C:
			if waiting := w.waiting(); !begun && w.lost == nil && len(waiting) > 0 {
				w.log.Warn("still waiting for the Kubernetes API", "for", waiting)
			}
			continue
		case <-w.alarm:
			w.noteOutage(time.Now())
			if begun && slices.Equal(w.troubles(), w.told) {
				continue
			}
		case <-settle.C:
			gathering = false
		case <-due.C:
		}
		if !begun && len(w.waiting()) > 0 {
			continue
		}
		bundle, problems, again := w.bundle(time.Now())
		if !begun {
			if err := w.refusal(problems); err != nil {
				return err
			}
			begun = true
			if bundle.Mesh == nil && s.Initial != "" {
				s.makeSettings(ctx, w)
			}
			w.log.Info("read the cluster", "services", len(bundle.Services), "pods", len(bundle.Pods), "slices", len(bundle.EndpointSlices))
		}
		publish(bundle, problems)
		if !again.IsZero() {
			due.Reset(time.Until(again))
		}
	}
}

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// createTime bounds the one request that this makes.
const createTime = 10 * time.Second

// makeSettings creates the ConfigMap with the mesh settings, so that there is
// something to edit. An installation does not bring it, because applying that
// again would undo what was edited.
func (s *Source) makeSettings(ctx context.Context, w *watcher) {
	ctx, cancel := context.WithTimeout(ctx, createTime)
	defer cancel()
	settings := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: meshName, Labels: map[string]string{"app.kubernetes.io/managed-by": "pilot"}},
		Data:       map[string]string{"mesh": s.Initial},
	}
	_, err := s.Cluster.Client.CoreV1().ConfigMaps(s.Namespace).Create(ctx, settings, metav1.CreateOptions{})
	switch {
	case err == nil:
		w.log.Info("made the ConfigMap for mesh settings; edit it to change them", "namespace", s.Namespace, "name", meshName)
	case !errors.IsAlreadyExists(err):
		w.log.Warn("cannot make the ConfigMap for mesh settings; create it yourself", "namespace", s.Namespace, "name", meshName, "error", err)
	}
}
