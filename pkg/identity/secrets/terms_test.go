package secrets

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// gone is a store whose namespaces are about to end.
type gone struct{ Directory }

func (gone) Create(context.Context, Secret) (string, error) { return "", ErrGone }

// TestGone: a namespace that ends is nobody's trouble.
func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newCA(t), func(o *Options) { o.Store = gone{Directory{Path: t.TempDir()}} })
		b.accounts(cart())
		b.after(5 * time.Minute)
		b.want("nothing is said", b.codes() == "" && !strings.Contains(b.reports, "SECRET"))
	})
}

// TestWhile: who may not write does nothing, and says nothing of what it did.
func TestWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		terms := make(chan time.Duration)
		b := start(t, newCA(t), func(o *Options) {
			o.While = func(ctx context.Context, work func(context.Context)) {
				for term := range terms {
					short, stop := context.WithTimeout(ctx, term)
					work(short)
					stop()
				}
			}
		})
		b.accounts(cart())
		b.after(5 * time.Minute)
		b.want("it waits for its term", b.serial(cart()) == "")
		terms <- time.Minute
		b.after(time.Second)
		b.want("it works in it", b.serial(cart()) != "" && b.c.Stats().Secrets == 1)
		b.after(time.Minute)
		b.accounts()
		b.after(5 * time.Minute)
		_, there := b.read(cart())
		b.want("and not after it", there && b.c.Stats() == Stats{})
		terms <- time.Minute
		b.after(time.Second)
		_, there = b.read(cart())
		b.want("it knows in the next what happened between", !there)
		b.after(time.Minute)
		close(terms)
	})
}
