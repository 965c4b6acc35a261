package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/pkg/lab/app"
	"github.com/meshpilot/pilot/pkg/lab/netns"
)

// startTime is how long a pod may take to become ready, with others beside it.
const startTime = time.Minute

// Pod is one that runs on the node, with a network namespace of its own.
type Pod struct {
	*corev1.Pod // as the API server has it after admission
	Space       *netns.Space
	Address     string
	Processes   map[string]*kubetest.Process // by container; the application has none

	node    *Node
	number  byte
	dir     string
	volumes map[string]*volume
	app     *app.Server

	follow  context.CancelFunc
	follows sync.WaitGroup
}

// Run creates the pod and runs it as a kubelet would; it returns when it is
// ready and in the endpoints of its services.
func (n *Node) Run(t testing.TB, pod *corev1.Pod) *Pod {
	t.Helper()
	p, err := n.start(t.Context(), pod)
	if err == nil {
		err = p.becomeReady(t.Context())
	}
	if err != nil {
		t.Fatalf("pod %s/%s: %v", pod.Namespace, pod.Name, err)
	}
	n.Endpoints(t, pod.Namespace)
	return p
}

// start runs the pod's containers.
func (n *Node) start(ctx context.Context, pod *corev1.Pod) (*Pod, error) {
	pod = pod.DeepCopy()
	pod.Spec.NodeName = name
	created, err := n.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	number := n.newNumber()
	address := netip.AddrFrom4([4]byte{10, 244, 0, number})
	p := &Pod{
		Pod: created, number: number, Address: address.String(), node: n, dir: filepath.Join(n.dir, created.Namespace+"."+created.Name),
		Processes: map[string]*kubetest.Process{}, volumes: map[string]*volume{}, follow: func() {},
	}
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return nil, err
	}
	if p.Space, err = n.Network.Host(address); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.pods = append(n.pods, p)
	n.mu.Unlock()
	if err := p.setStatus(ctx, corev1.PodPending, false); err != nil {
		return nil, err
	}
	if err := p.mountVolumes(ctx); err != nil {
		return nil, err
	}
	for i := range p.Spec.InitContainers {
		if err := p.runInit(ctx, &p.Spec.InitContainers[i]); err != nil {
			return nil, err
		}
	}
	for i := range p.Spec.Containers {
		if err := p.run(ctx, &p.Spec.Containers[i]); err != nil {
			return nil, err
		}
	}
	return p, p.setStatus(ctx, corev1.PodRunning, false)
}

// mountVolumes waits for what the volumes show, and keeps it as it is in the
// API from then on.
func (p *Pod) mountVolumes(ctx context.Context) error {
	for _, v := range p.Spec.Volumes {
		made, err := p.newVolume(v)
		if err != nil {
			return err
		}
		p.volumes[v.Name] = made
		err = until(ctx, func(ctx context.Context) (bool, error) {
			err := made.update(ctx)
			return !errors.Is(err, errAbsent), err
		})
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	follow, cancel := context.WithCancel(context.Background())
	p.follow = cancel
	p.follows.Go(func() {
		tick := time.NewTicker(refresh)
		defer tick.Stop()
		for {
			select {
			case <-follow.Done():
				return
			case <-tick.C:
				for _, v := range p.volumes {
					_ = v.update(follow) // what cannot be read, or is gone, stays as it was
				}
			}
		}
	})
	return nil
}

// becomeReady waits for all readiness probes, and tells the API.
func (p *Pod) becomeReady(ctx context.Context) error {
	all := slices.Concat(p.Spec.InitContainers, p.Spec.Containers)
	for i := range all {
		c := &all[i]
		if err := p.probe(ctx, c, c.ReadinessProbe); err != nil {
			return fmt.Errorf("container %s is not ready: %w", c.Name, err)
		}
	}
	return p.setStatus(ctx, corev1.PodRunning, true)
}

// setStatus is the kubelet's report, which only adds.
func (p *Pod) setStatus(ctx context.Context, phase corev1.PodPhase, ready bool) error {
	condition := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()}
	if ready {
		condition.Status = corev1.ConditionTrue
	}
	p.Status = corev1.PodStatus{
		Phase: phase, PodIP: p.Address, PodIPs: []corev1.PodIP{{IP: p.Address}}, HostIP: address,
		Conditions: []corev1.PodCondition{condition},
	}
	current, err := p.node.Client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	current.Status = p.Status
	_, err = p.node.Client.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, current, metav1.UpdateOptions{})
	return err
}

// SetReady says that the pod's readiness changed.
func (p *Pod) SetReady(t testing.TB, ready bool) {
	t.Helper()
	if err := p.setStatus(t.Context(), corev1.PodRunning, ready); err != nil {
		t.Fatal(err)
	}
	p.node.Endpoints(t, p.Namespace)
}

// Delete ends the pod as a cluster does: the endpoints lose it while its hooks
// and then its processes end, and at last it is gone from the API.
func (p *Pod) Delete(t testing.TB) {
	t.Helper()
	pods := p.node.Client.CoreV1().Pods(p.Namespace)
	if err := pods.Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	p.node.Endpoints(t, p.Namespace)
	if err := p.stop(t.Context()); err != nil {
		t.Error(err)
	}
	now := int64(0)
	if err := pods.Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	p.node.mu.Lock()
	p.node.pods = slices.DeleteFunc(p.node.pods, func(o *Pod) bool { return o == p })
	p.node.mu.Unlock()
	p.node.Endpoints(t, p.Namespace)
}

// stop runs the hooks, then asks the processes to end: native sidecars last.
func (p *Pod) stop(ctx context.Context) error {
	var errs []error
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		var all sync.WaitGroup
		results := make([]error, len(list))
		for i := range list {
			c := &list[i]
			process := p.Processes[c.Name]
			if process == nil {
				continue
			}
			all.Go(func() {
				if c.Lifecycle != nil {
					results[i] = p.hook(ctx, c, c.Lifecycle.PreStop)
				}
				process.Stop()
			})
		}
		all.Wait()
		errs = append(errs, results...)
	}
	return errors.Join(append(errs, p.kill())...)
}

// kill ends what still runs and lets the network go.
func (p *Pod) kill() error {
	p.follow()
	p.follows.Wait()
	for _, process := range p.Processes {
		process.Kill()
	}
	var err error
	if p.app != nil {
		err = p.app.Close()
	}
	return errors.Join(err, p.Space.Close())
}

// until calls f every 100 ms until it says that it is done, for startTime.
func until(ctx context.Context, f func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error // but for those of the end
	for {
		done, err := f(ctx)
		if done {
			return err
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), last)
		case <-tick.C:
		}
	}
}
