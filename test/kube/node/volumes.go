package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// refresh is how often mounted Secrets and ConfigMaps are read again. A real
// kubelet takes up to a minute.
const refresh = 200 * time.Millisecond

// volume is one of a pod's.
type volume struct {
	dir     string
	content func(context.Context) (map[string][]byte, error) // nil: an empty directory
	last    map[string][]byte
	written int
}

// errAbsent is content that a pod waits for.
var errAbsent = errors.New("is not there yet")

func (p *Pod) newVolume(v corev1.Volume) (*volume, error) {
	made := &volume{dir: filepath.Join(p.dir, "volumes", v.Name)}
	if err := os.MkdirAll(made.dir, 0o755); err != nil {
		return nil, err
	}
	switch {
	case v.EmptyDir != nil:
		return made, os.Chmod(made.dir, 0o777)
	case v.Secret != nil:
		made.content = func(ctx context.Context) (map[string][]byte, error) {
			return p.secret(ctx, v.Secret.SecretName, v.Secret.Items, v.Secret.Optional)
		}
	case v.ConfigMap != nil:
		made.content = func(ctx context.Context) (map[string][]byte, error) {
			return p.configMap(ctx, v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional)
		}
	case v.Projected != nil:
		made.content = func(ctx context.Context) (map[string][]byte, error) {
			return p.projected(ctx, v.Projected.Sources, made.last)
		}
	default:
		return nil, fmt.Errorf("volume %s: this node has no such kind", v.Name)
	}
	return made, nil
}

func (p *Pod) secret(ctx context.Context, name string, items []corev1.KeyToPath, optional *bool) (map[string][]byte, error) {
	s, err := p.node.Client.CoreV1().Secrets(p.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return absent("Secret "+name, optional)
	}
	if err != nil {
		return nil, err
	}
	return pick(s.Data, items), nil
}

func (p *Pod) configMap(ctx context.Context, name string, items []corev1.KeyToPath, optional *bool) (map[string][]byte, error) {
	c, err := p.node.Client.CoreV1().ConfigMaps(p.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return absent("ConfigMap "+name, optional)
	}
	if err != nil {
		return nil, err
	}
	data := map[string][]byte{}
	for key, value := range c.Data {
		data[key] = []byte(value)
	}
	return pick(data, items), nil
}

func absent(what string, optional *bool) (map[string][]byte, error) {
	if optional != nil && *optional {
		return map[string][]byte{}, nil
	}
	return nil, fmt.Errorf("%s %w", what, errAbsent)
}

func pick(data map[string][]byte, items []corev1.KeyToPath) map[string][]byte {
	if len(items) == 0 {
		return data
	}
	picked := map[string][]byte{}
	for _, item := range items {
		if value, there := data[item.Key]; there {
			picked[item.Path] = value
		}
	}
	return picked
}

// projected asks for a token once: those of tests live for an hour.
func (p *Pod) projected(ctx context.Context, sources []corev1.VolumeProjection, last map[string][]byte) (map[string][]byte, error) {
	all := map[string][]byte{}
	for _, s := range sources {
		var part map[string][]byte
		var err error
		switch {
		case s.ServiceAccountToken != nil:
			part = map[string][]byte{s.ServiceAccountToken.Path: last[s.ServiceAccountToken.Path]}
			if last == nil {
				part, err = p.token(ctx, s.ServiceAccountToken)
			}
		case s.ConfigMap != nil:
			part, err = p.configMap(ctx, s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional)
		case s.Secret != nil:
			part, err = p.secret(ctx, s.Secret.Name, s.Secret.Items, s.Secret.Optional)
		case s.DownwardAPI != nil:
			part = map[string][]byte{}
			for _, item := range s.DownwardAPI.Items {
				part[item.Path] = []byte(p.field(item.FieldRef.FieldPath))
			}
		}
		if err != nil {
			return nil, err
		}
		maps.Copy(all, part)
	}
	return all, nil
}

func (p *Pod) token(ctx context.Context, s *corev1.ServiceAccountTokenProjection) (map[string][]byte, error) {
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef:    &authv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID},
	}}
	if s.Audience != "" {
		request.Spec.Audiences = []string{s.Audience}
	}
	answer, err := p.node.Client.CoreV1().ServiceAccounts(p.Namespace).CreateToken(ctx, p.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return map[string][]byte{s.Path: []byte(answer.Status.Token)}, nil
}

// update writes the content, if it is another, as a kubelet does: a new
// directory, then one rename of a link.
func (v *volume) update(ctx context.Context) error {
	if v.content == nil {
		return nil
	}
	content, err := v.content(ctx)
	if err != nil {
		return err
	}
	if v.last != nil && maps.EqualFunc(content, v.last, bytes.Equal) {
		return nil
	}
	v.written++
	next := "..data-" + strconv.Itoa(v.written)
	for path, value := range content {
		file := filepath.Join(v.dir, next, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, value, 0o644); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(v.dir, next), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(next, filepath.Join(v.dir, "..data_tmp")); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(v.dir, "..data_tmp"), filepath.Join(v.dir, "..data")); err != nil {
		return err
	}
	_ = os.RemoveAll(filepath.Join(v.dir, "..data-"+strconv.Itoa(v.written-1))) // there is none at first
	return v.link(content)
}

// link makes the visible names those of the content.
func (v *volume) link(content map[string][]byte) error {
	top := map[string]bool{}
	for path := range content {
		first, _, _ := strings.Cut(path, "/")
		top[first] = true
	}
	for path := range top {
		if err := os.Symlink(filepath.Join("..data", path), filepath.Join(v.dir, path)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	for path := range v.last {
		if !top[path] {
			_ = os.Remove(filepath.Join(v.dir, path)) // a link
		}
	}
	v.last = content
	return nil
}
