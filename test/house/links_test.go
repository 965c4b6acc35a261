package house

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestLinks: what a page links to in this repository is there.
func TestLinks(t *testing.T) {
	pages := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			pages++
			report(t, linkFindings(path, readFile(t, path)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if pages < 3 {
		t.Fatalf("found %d pages", pages)
	}
}

func TestLinksFail(t *testing.T) {
	page := filepath.Join(root, "docs/page.md")
	wantFindings(t, linkFindings(page, "[a](golden.md#begin) [b](../README.md) [c](https://example.com/x) [d](#here)"))
	wantFindings(t, linkFindings(page, "see [it](none.md)"), "links to none.md, which is not there")
}

// linkFindings are the relative links of a page that lead nowhere.
func linkFindings(path, text string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`).FindAllStringSubmatch(text, -1) {
		if strings.Contains(m[1], "://") {
			continue
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
			out = append(out, fmt.Sprintf("%s links to %s, which is not there", path, m[1]))
		}
	}
	return out
}
