package replicas

import (
	"errors"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// server is an API server in memory that guards updates by resourceVersion,
// as the real one does.
type server struct {
	mu   sync.Mutex
	last int
	all  *fake.Clientset // whoever is not cut off
}

var errCut = errors.New("the API server is not reachable")

func newServer() *server {
	s := &server{all: fake.NewClientset()}
	s.guard(s.all, func() bool { return false })
	return s
}

// client is the server's for one replica, as long as cut is false.
func (s *server) guard(c *fake.Clientset, cut func() bool) {
	c.PrependReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if cut() {
			return true, nil, errCut
		}
		return false, nil, nil
	})
	for _, verb := range []string{"create", "update"} {
		c.PrependReactor(verb, "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
			if cut() {
				return true, nil, errCut
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			var object runtime.Object
			if a, ok := action.(clienttesting.CreateAction); ok && verb == "create" {
				object = a.GetObject()
			} else if a, ok := action.(clienttesting.UpdateAction); ok {
				object = a.GetObject()
			}
			return s.write(action, verb, object)
		})
	}
}

func (s *server) write(action clienttesting.Action, verb string, object runtime.Object) (bool, runtime.Object, error) {
	object = object.DeepCopyObject()
	own, err := meta.Accessor(object)
	if err != nil {
		return true, nil, err
	}
	of := action.GetResource()
	s.last++
	if verb == "create" {
		own.SetResourceVersion(strconv.Itoa(s.last))
		return true, object, s.all.Tracker().Create(of, object, action.GetNamespace())
	}
	there, err := s.all.Tracker().Get(of, action.GetNamespace(), own.GetName())
	if err != nil {
		return true, nil, err
	}
	stored, err := meta.Accessor(there)
	if err != nil {
		return true, nil, err
	}
	if v := own.GetResourceVersion(); v != "" && v != stored.GetResourceVersion() {
		return true, nil, apierrors.NewConflict(of.GroupResource(), own.GetName(), errors.New("the object has been modified"))
	}
	own.SetResourceVersion(strconv.Itoa(s.last))
	return true, object, s.all.Tracker().Update(of, object, action.GetNamespace())
}

// client is a client that is cut off while cut says so.
func (s *server) client(cut func() bool) *fake.Clientset {
	c := &fake.Clientset{}
	c.AddReactor("*", "*", clienttesting.ObjectReaction(s.all.Tracker()))
	c.AddWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		if cut() {
			return true, nil, errCut
		}
		w, err := s.all.Tracker().Watch(action.GetResource(), action.GetNamespace())
		return true, w, err
	})
	s.guard(c, cut)
	return c
}
