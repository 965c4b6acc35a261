package csr

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"
)

const (
	// largestTokenFile is about 10,000 lines; all of them are compared with a
	// caller's token.
	largestTokenFile = 1 << 20
	shortToken       = 16
)

var (
	namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	accountName   = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)
)

// TokenFile authenticates by tokens of a file with lines "<token> <ns>/<sa>".
// The file is read again whenever it is another one; while it cannot be read,
// no token is known.
type TokenFile struct {
	path string

	mu     sync.Mutex
	state  fileState
	tokens []bootstrapToken
	faults []string
}

// bootstrapToken is kept as its digest, so that a dump of memory does not hold
// what the file does, and all compare in the same time.
type bootstrapToken struct {
	digest  [sha256.Size]byte
	account Account
	line    int
}

// fileState tells one content of a file from the next.
type fileState struct {
	modified time.Time
	size     int64
	mode     os.FileMode
	info     os.FileInfo
	problem  string
}

func (s fileState) same(o fileState) bool {
	return s.modified.Equal(o.modified) && s.size == o.size && s.mode == o.mode && s.problem == o.problem &&
		(s.info == nil) == (o.info == nil) && (s.info == nil || os.SameFile(s.info, o.info))
}

// OpenTokens reads the file, which must be there.
func OpenTokens(path string) (*TokenFile, error) {
	f := &TokenFile{path: path}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refresh(); f.state.problem != "" {
		return nil, errors.New(f.state.problem)
	}
	return f, nil
}

// Authenticate takes the token of the call's header "authorization".
func (f *TokenFile) Authenticate(ctx context.Context) (Account, error) {
	token, err := Bearer(ctx)
	if err != nil {
		return Account{}, err
	}
	digest := sha256.Sum256([]byte(token))
	f.mu.Lock()
	f.refresh()
	tokens := f.tokens
	f.mu.Unlock()
	found := -1
	for i := range tokens {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(tokens[i].digest[:], digest[:]), i, found)
	}
	if found < 0 {
		return Account{}, errors.New("the bearer token is not known")
	}
	return tokens[found].account, nil
}

// Faults are what is wrong with the file now, without any token.
func (f *TokenFile) Faults() (path string, faults []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh()
	return f.path, f.faults
}

// Bearer is the token of a call's header "authorization".
func Bearer(ctx context.Context) (token string, err error) {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, header := range md.Get("authorization") {
		scheme, token, _ := strings.Cut(header, " ")
		if token = strings.TrimSpace(token); strings.EqualFold(scheme, "Bearer") && token != "" {
			return token, nil
		}
	}
	return "", errors.New("no bearer token exists in HTTP authorization header")
}

// refresh reads the file if it is not the one that was read.
func (f *TokenFile) refresh() {
	content, now := f.read()
	if now.same(f.state) {
		return
	}
	f.state = now
	f.tokens, f.faults = parseTokens(content)
	if loose := now.mode.Perm() & 0o077; loose != 0 {
		f.faults = append(f.faults, fmt.Sprintf("it has mode %04o, with which other users may read or change its tokens: chmod 600", now.mode.Perm()))
	}
	if now.problem != "" {
		f.faults = append(f.faults, now.problem)
	}
}

// read gives no content if the file is the one that was read.
func (f *TokenFile) read() ([]byte, fileState) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, fileState{problem: err.Error()}
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fileState{problem: err.Error()}
	}
	now := fileState{modified: info.ModTime(), size: info.Size(), mode: info.Mode(), info: info}
	if now.same(f.state) {
		return nil, now
	}
	if !info.Mode().IsRegular() || info.Size() > largestTokenFile {
		now.problem = fmt.Sprintf("%s must be a regular file of at most %d bytes", f.path, largestTokenFile)
		return nil, now
	}
	content, err := io.ReadAll(io.LimitReader(file, largestTokenFile))
	if err != nil {
		return nil, fileState{problem: err.Error()}
	}
	return content, now
}

// parseTokens names bad lines by their number, never by their content.
func parseTokens(content []byte) (tokens []bootstrapToken, faults []string) {
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, largestTokenFile)
	seen := map[[sha256.Size]byte]int{}
	for number := 1; lines.Scan(); number++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		fault := func(text string) { faults = append(faults, fmt.Sprintf("line %d %s", number, text)) }
		if len(fields) != 2 {
			fault("is not <token> <namespace>/<service account>; it is ignored")
			continue
		}
		namespace, name, _ := strings.Cut(fields[1], "/")
		if !namespaceName.MatchString(namespace) || !accountName.MatchString(name) {
			fault("does not end with <namespace>/<service account>; it is ignored")
			continue
		}
		digest := sha256.Sum256([]byte(fields[0]))
		if first, again := seen[digest]; again {
			fault(fmt.Sprintf("has the token of line %d; it is ignored", first))
			continue
		}
		if len(fields[0]) < shortToken {
			fault(fmt.Sprintf("has a token of less than %d characters, which can be guessed", shortToken))
		}
		seen[digest] = number
		tokens = append(tokens, bootstrapToken{digest, Account{namespace, name}, number})
	}
	return tokens, faults
}
