package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/meshpilot/pilot/pkg/identity"
)

// Files of a CA, as the control plane keeps them and as a plugged-in one is
// handed out.
const (
	CACertFile = "ca-cert.pem"
	CAKeyFile  = "ca-key.pem"
)

// Dir reads a directory of published files, or a tree of such directories.
func Dir(root string) ([]Set, error) {
	var sets []Set
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case strings.HasPrefix(d.Name(), "..") && path != root:
			return fs.SkipDir // versions of what the directory above shows
		}
		set, found, err := published(path)
		if found {
			sets = append(sets, set)
		}
		return err
	})
	if err == nil && len(sets) == 0 {
		err = fmt.Errorf("%s: no %s, %s or %s in it, nor below", root, identity.CertChainFile, CACertFile, identity.RootCertFile)
	}
	return sets, err
}

// published is what one directory shows at one moment; the link that a writer
// swaps is followed once.
func published(dir string) (Set, bool, error) {
	for range 3 {
		from := dir
		if version, err := filepath.EvalSymlinks(filepath.Join(dir, "..data")); err == nil {
			from = version
		}
		set, found, err := read(from)
		if _, gone := os.Stat(from); gone != nil {
			continue // swapped meanwhile
		}
		set.Name = dir
		return set, found, err
	}
	return Set{}, false, fmt.Errorf("%s: replaced faster than it can be read", dir)
}

func read(dir string) (Set, bool, error) {
	files := map[string][]byte{}
	closed := map[string]bool{}
	for _, name := range []string{identity.CertChainFile, identity.KeyFile, identity.RootCertFile, CACertFile, CAKeyFile} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, fs.ErrPermission) && (name == identity.KeyFile || name == CAKeyFile):
			closed[name] = true
		case err != nil:
			return Set{}, false, err
		default:
			files[name] = content
		}
	}
	set, found := Files(files, closed)
	return set, found, nil
}

// Files is the set of files by their usual names, if there is one; closed are
// keys that are there but may not be read.
func Files(files map[string][]byte, closed map[string]bool) (set Set, found bool) {
	set = Set{Chain: files[identity.CertChainFile], Roots: files[identity.RootCertFile]}
	key := identity.KeyFile
	if cert, ok := files[CACertFile]; ok {
		// A plugged-in CA: its cert-chain.pem has its issuers.
		set.Authority, key = true, CAKeyFile
		set.Chain = append(append([]byte{}, cert...), set.Chain...)
	}
	if set.Key = files[key]; set.Key == nil && set.Chain != nil {
		set.NoKey = key + " is not there"
		if closed[key] {
			set.NoKey = "you may not read " + key
		}
	}
	return set, set.Chain != nil || set.Roots != nil
}

// File is the set of a PEM file: a chain, or CA certificates alone.
func File(name string, content []byte) Set {
	set := Set{Name: name, Chain: content}
	if all, err := identity.ParseCertificates(content); err == nil && all[0].IsCA {
		set.Chain, set.Roots = nil, content
	}
	return set
}
