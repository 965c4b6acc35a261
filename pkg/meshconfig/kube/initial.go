package kube

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
