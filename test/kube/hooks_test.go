package kube

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meshpilot/pilot/pkg/meshconfig/kube/hooks"
)

// The CA bundles follow the roots while pilot runs, in a configuration that is
// made later, and after an edit; all else, and other configurations, stay.
func TestHooks(t *testing.T) {
	configurations := shared.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	create := func(name string) {
		t.Helper()
		side, ignore := admissionv1.SideEffectClassNone, admissionv1.Ignore
		var webhooks []admissionv1.ValidatingWebhook
		for _, path := range []string{"/a", "/b"} {
			webhooks = append(webhooks, admissionv1.ValidatingWebhook{
				Name: path[1:] + ".hooks.example.com", SideEffects: &side, FailurePolicy: &ignore, AdmissionReviewVersions: []string{"v1"},
				ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "hooks", Name: "hooks", Path: &path}},
			})
		}
		c := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: webhooks}
		if _, err := configurations.Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := configurations.Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	read := func(name string) *admissionv1.ValidatingWebhookConfiguration {
		t.Helper()
		c, err := configurations.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}

	var roots atomic.Pointer[[]byte]
	roots.Store(new([]byte("first")))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		hooks.Keep(ctx, hooks.Options{Client: shared.Client, Name: "hooks-test", Roots: func() []byte { return *roots.Load() }})
	}()
	defer func() { cancel(); <-done }()

	create("hooks-other")
	create("hooks-test")
	kept := func(what string) {
		t.Helper()
		eventually(t, what, func() error {
			for _, w := range read("hooks-test").Webhooks {
				if !bytes.Equal(w.ClientConfig.CABundle, *roots.Load()) || *w.ClientConfig.Service.Path != "/"+w.Name[:1] {
					return fmt.Errorf("%s has %q at %s", w.Name, w.ClientConfig.CABundle, *w.ClientConfig.Service.Path)
				}
			}
			return nil
		})
	}
	kept("one that was made later")
	roots.Store(new([]byte("first and second")))
	kept("other roots")
	_, err := configurations.Patch(t.Context(), "hooks-test", types.JSONPatchType,
		[]byte(`[{"op": "replace", "path": "/webhooks/1/clientConfig/caBundle", "value": "eA=="}]`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kept("an edit")
	for _, w := range read("hooks-other").Webhooks {
		if len(w.ClientConfig.CABundle) > 0 {
			t.Errorf("another configuration has %q", w.ClientConfig.CABundle)
		}
	}
}
