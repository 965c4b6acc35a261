package conditions

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/meshpilot/pilot/pkg/meshconfig"
)

// meshName is the ConfigMap with the mesh settings.
const meshName = "istio"

// events tells once of each problem of the mesh settings, and when the last
// error is gone.
type events struct {
	writer      *Writer
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	told        map[meshconfig.Problem]bool
	wrong       bool // there was an error
	next        time.Time
}

func (w *Writer) openEvents(ctx context.Context) *events {
	e := &events{writer: w, broadcaster: record.NewBroadcaster(record.WithContext(ctx)), told: map[meshconfig.Problem]bool{}}
	e.recorder = e.broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "pilot"})
	e.broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: w.options.Cluster.Client.CoreV1().Events(w.options.Namespace)})
	return e
}

func (e *events) close() { e.broadcaster.Shutdown() }

// look compares the problems in force with those that were told.
func (e *events) look(ctx context.Context, problems []meshconfig.Problem) {
	now := map[meshconfig.Problem]bool{}
	wrong := false
	var news []meshconfig.Problem
	for _, p := range problems {
		if p.On.Kind != "ConfigMap" || p.On.Namespace != e.writer.options.Namespace || p.On.Name != meshName || p.Severity == meshconfig.Info {
			continue
		}
		now[p] = true
		wrong = wrong || p.Severity == meshconfig.Error
		if !e.told[p] {
			news = append(news, p)
		}
	}
	recovered := e.wrong && !wrong
	if len(news) == 0 && !recovered {
		e.told = now
		return
	}
	if time.Now().Before(e.next) {
		return
	}
	ctx, done := context.WithTimeout(ctx, requestTime)
	defer done()
	// kubectl describe finds Events by the uid.
	found, err := e.writer.options.Cluster.Client.CoreV1().ConfigMaps(e.writer.options.Namespace).Get(ctx, meshName, metav1.GetOptions{})
	if err != nil {
		e.next = time.Now().Add(longestWait / 10)
		e.writer.options.Log.Warn("an Event of the mesh settings cannot be written", "error", err)
		return
	}
	on := &corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: found.Namespace, Name: found.Name, UID: found.UID, ResourceVersion: found.ResourceVersion}
	for _, p := range news {
		e.recorder.Event(on, corev1.EventTypeWarning, reason(p.Code), texts([]meshconfig.Problem{p}))
	}
	if recovered {
		e.recorder.Event(on, corev1.EventTypeNormal, "Accepted", "the mesh settings are accepted and in force")
	}
	e.told, e.wrong = now, wrong
}
