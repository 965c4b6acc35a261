package translate

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// small makes halves of a few resources: what stands behind a name are its
// variant, "!" for bad ones, and the clusters that it refers to.
func small(clusters, routes string) *Half {
	h := newHalf()
	h.Resident = nil
	h.Clusters, h.Routes = smallTable(clusters), smallTable(routes)
	return h
}

func smallTable(text string) *Table {
	var resources []*Resource
	for _, word := range strings.Fields(text) {
		parts := strings.Split(word, ":")
		r := &Resource{Name: parts[0], Version: parts[1]}
		if strings.HasSuffix(r.Version, "!") {
			r.err = errors.New("breaks a rule")
		}
		if len(parts) > 2 {
			r.clusters = strings.Split(parts[2], ",")
		}
		resources = append(resources, r)
	}
	return newTable(resources, nil)
}

func (h *Half) short() string {
	var words []string
	for _, t := range []*Table{h.Clusters, h.Routes} {
		for _, r := range t.Resources {
			words = append(words, r.Name+":"+r.Version)
		}
	}
	return strings.Join(words, " ")
}

func TestSoundWithholdsResourcesNotHalves(t *testing.T) {
	cases := []struct {
		name                             string
		lastClusters, lastRoutes         string
		clusters, routes, want, mistakes string
	}{
		{"all good", "a:1", "80:1:a", "a:2 b:1", "80:2:a,b", "a:2 b:1 80:2", ""},
		{"the last good one stays", "a:1 b:1", "80:1:a,b", "a:2! b:2", "80:2:a,b", "a:1 b:2 80:2", "a: breaks a rule"},
		{"who is new and bad is left out, with what needs it", "a:1", "80:1:a", "a:1 b:1!", "80:2:a,b 90:1:a", "a:1 80:1 90:1",
			"b: breaks a rule; 80: cluster b does not exist"},
		{"nothing was before", "", "", "a:1!", "80:1:a 90:1", "90:1", "a: breaks a rule; 80: cluster a does not exist"},
		{"an old one that lost its cluster goes too", "a:1 b:1", "80:1:b", "a:1", "80:2!:a", "a:1", "80: breaks a rule; 80: cluster b does not exist"},
		{"unchanged, but its cluster is gone", "a:1 b:1", "80:1:b", "a:1", "80:1:b", "a:1", "80: cluster b does not exist"},
		{"twice", "a:1", "", "a:1 a:1 b:1", "", "a:1 b:1", "a: name used twice"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			last := small(c.lastClusters, c.lastRoutes)
			now := small(c.clusters, c.routes)
			for now, last := range map[**Table]*Table{&now.Clusters: last.Clusters, &now.Routes: last.Routes} {
				*now = newTable((*now).Resources, last)
			}
			got, err := Sound(now, last, &Table{}, &Table{})
			mistakes := ""
			if err != nil {
				mistakes = strings.ReplaceAll(err.Error(), "\n", "; ")
			}
			if got.short() != c.want || mistakes != c.mistakes {
				t.Errorf("got %q with %q, want %q with %q", got.short(), mistakes, c.want, c.mistakes)
			}
		})
	}
}

// TestSoundAgreesWithCheck: whatever comes after whatever, what is left stands
// Check, all of it is left if Check finds nothing, and nothing else is.
func TestSoundAgreesWithCheck(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "c", "d"}
	endpoints := func() *Table {
		return smallTable(strings.Join(slices.DeleteFunc([]string{"a:1", "b:1", "c:1"}, func(string) bool { return random.IntN(6) == 0 }), " "))
	}
	half := func(last *Half) *Half {
		h := small("", "")
		var clusters, routes []*Resource
		for _, name := range names {
			if random.IntN(5) > 0 {
				r := &Resource{Name: name, Version: string('1' + rune(random.IntN(2)))}
				if random.IntN(4) == 0 && name < "d" {
					r.eds, r.Version = name, "3"
				}
				clusters = append(clusters, r)
			}
			if random.IntN(5) > 0 {
				ref := names[random.IntN(len(names))]
				routes = append(routes, &Resource{Name: "r" + name, Version: ref, clusters: []string{ref}})
			}
		}
		for _, r := range slices.Concat(clusters, routes) {
			if random.IntN(12) == 0 {
				r.err, r.Version = errors.New("bad"), r.Version+"!"
			}
		}
		h.Clusters, h.Routes = newTable(clusters, last.Clusters), newTable(routes, last.Routes)
		return h
	}
	good := 0
	last, before := small("", ""), &Table{}
	for range 5000 {
		now := endpoints()
		h := half(last)
		sound, err := Sound(h, last, now, before)
		if wrong := Check(sound, now); wrong != nil {
			t.Fatalf("%q after %q left %q: %v", h.short(), last.short(), sound.short(), wrong)
		}
		if found := Check(h, now); (err == nil) != (found == nil) {
			t.Fatalf("%q after %q: Sound says %v, Check %v", h.short(), last.short(), err, found)
		}
		if err == nil {
			good++
			if sound.Clusters != h.Clusters || sound.Routes != h.Routes {
				t.Fatal("a good table was not kept by pointer")
			}
		}
		last, before = sound, now
	}
	if good < 500 || good > 4500 {
		t.Errorf("%d of 5000 halves were good, which tests one side only", good)
	}
}

func TestSoundEndpoints(t *testing.T) {
	last, now := smallTable("a:1 b:1"), smallTable("a:2! b:2 c:1!")
	got, err := SoundEndpoints(now, last)
	if (&Half{Clusters: got, Routes: &Table{}}).short() != "a:1 b:2" || err == nil {
		t.Errorf("got %v, %v", got.Resources, err)
	}
	if got, err := SoundEndpoints(last, nil); got != last || err != nil {
		t.Errorf("good endpoints became %v, %v", got, err)
	}
}
