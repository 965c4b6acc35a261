// Package hooks keeps the CA bundle of pilot's two webhook configurations
// equal to the roots of its CA, so that the API server trusts what the
// webhooks show: when the roots change, and when somebody edits the objects.
//
// Of the API it uses list, watch and patch on the one
// mutatingwebhookconfigurations and the one validatingwebhookconfigurations
// of admissionregistration.k8s.io that have its name.
package hooks

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	// lookTime is how late changed roots may be noticed.
	lookTime = time.Second
	// A configuration that somebody else keeps changing back is patched ever
	// less often, and at once again when it was left alone for a while.
	firstPause = time.Second
	maxPause   = 30 * time.Second
	calmTime   = 2 * time.Minute
)

// Name is what both configurations of a control plane are called.
func Name(namespace string) string { return "istio-pilot-" + namespace }

// Options say whose configurations are kept, and by what.
type Options struct {
	Client kubernetes.Interface
	Name   string        // of both configurations
	Roots  func() []byte // PEM
	Log    *slog.Logger  // nil is slog.Default
}

// Keep runs until ctx ends. Configurations that are not there are no error:
// they are kept as soon as they are.
func Keep(ctx context.Context, o Options) {
	o.Log = cmp.Or(o.Log, slog.Default())
	k := &keeper{Options: o, wake: make(chan struct{}, 1)}
	factory := informers.NewSharedInformerFactoryWithOptions(o.Client, 0, informers.WithTweakListOptions(func(l *metav1.ListOptions) {
		l.FieldSelector = fields.OneTermEqualSelector("metadata.name", o.Name).String()
	}))
	registered := factory.Admissionregistration().V1()
	mutating, validating := registered.MutatingWebhookConfigurations(), registered.ValidatingWebhookConfigurations()
	k.watch("mutatingwebhookconfigurations", mutating.Informer())
	k.watch("validatingwebhookconfigurations", validating.Informer())
	factory.Start(ctx.Done())
	defer factory.Shutdown()

	tick := time.NewTicker(lookTime)
	defer tick.Stop()
	for {
		if c, err := mutating.Lister().Get(o.Name); err == nil {
			k.keep(ctx, &k.mutating, "mutating", mutatingBundles(c), func(patch []byte) error {
				_, err := o.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().
					Patch(ctx, o.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: "pilot"})
				return err
			})
		}
		if c, err := validating.Lister().Get(o.Name); err == nil {
			k.keep(ctx, &k.validating, "validating", validatingBundles(c), func(patch []byte) error {
				_, err := o.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations().
					Patch(ctx, o.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: "pilot"})
				return err
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-k.wake:
		}
	}
}

type keeper struct {
	Options
	wake                 chan struct{}
	mutating, validating pace
}

// pace is when a configuration may be patched again.
type pace struct {
	last  time.Time
	pause time.Duration
}

// watch wakes the keeper at each change.
func (k *keeper) watch(what string, informer cache.SharedIndexInformer) {
	wake := func() {
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
	failed := func(ctx context.Context, r *cache.Reflector, err error) {
		k.Log.Warn("cannot watch the webhook configuration", "resource", what, "name", k.Name, "error", err)
	}
	// Both fail only for an informer that runs already.
	_ = informer.SetWatchErrorHandlerWithContext(failed)
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { wake() },
		UpdateFunc: func(any, any) { wake() },
	})
}

// hook is one webhook's CA bundle.
type hook struct {
	name   string
	bundle []byte
}

func mutatingBundles(c *admissionv1.MutatingWebhookConfiguration) []hook {
	var out []hook
	for i := range c.Webhooks {
		out = append(out, hook{c.Webhooks[i].Name, c.Webhooks[i].ClientConfig.CABundle})
	}
	return out
}

func validatingBundles(c *admissionv1.ValidatingWebhookConfiguration) []hook {
	var out []hook
	for i := range c.Webhooks {
		out = append(out, hook{c.Webhooks[i].Name, c.Webhooks[i].ClientConfig.CABundle})
	}
	return out
}

// keep patches what differs, if something does.
func (k *keeper) keep(ctx context.Context, p *pace, kind string, have []hook, send func([]byte) error) {
	patch := bundlePatch(have, k.Roots())
	now := time.Now()
	if patch == nil || now.Before(p.last.Add(p.pause)) {
		return
	}
	if now.Sub(p.last) > calmTime {
		p.pause = 0
	}
	p.last, p.pause = now, min(max(2*p.pause, firstPause), maxPause)
	if err := send(patch); err != nil {
		if ctx.Err() == nil {
			k.Log.Warn("cannot put the CA's roots into the webhook configuration", "kind", kind, "name", k.Name, "error", err)
		}
		return
	}
	k.Log.Info("the webhook configuration has the CA's roots", "kind", kind, "name", k.Name)
}

// bundlePatch sets the bundle of those webhooks that have another; nil if none
// has.
func bundlePatch(have []hook, roots []byte) []byte {
	type clientConfig struct {
		CABundle []byte `json:"caBundle"`
	}
	type webhook struct {
		Name         string       `json:"name"` // by which they are merged
		ClientConfig clientConfig `json:"clientConfig"`
	}
	var change struct {
		Webhooks []webhook `json:"webhooks"`
	}
	for _, h := range have {
		if !bytes.Equal(h.bundle, roots) {
			change.Webhooks = append(change.Webhooks, webhook{h.name, clientConfig{roots}})
		}
	}
	if len(change.Webhooks) == 0 {
		return nil
	}
	patch, _ := json.Marshal(change) // of strings and bytes
	return patch
}
