package csr

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"
)

const token = "0123456789abcdef0123456789abcdef"

func withHeader(t *testing.T, header ...string) context.Context {
	md := metadata.MD{}
	if len(header) > 0 {
		md.Set("authorization", header...)
	}
	return metadata.NewIncomingContext(t.Context(), md)
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(next, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

func TestTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	other := strings.ToUpper(token)
	write(t, path, "# machines\n\n"+token+" shop/cart\n  "+other+"\tstore/stock.v2  \n", 0o600)
	f, err := OpenTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, faults := f.Faults(); len(faults) > 0 {
		t.Errorf("faults %q", faults)
	}
	const none, unknown = "no bearer token exists in HTTP authorization header", "the bearer token is not known"
	for _, tc := range []struct {
		name   string
		header []string
		want   Account
		text   string
	}{
		{"known", []string{"Bearer " + token}, Account{"shop", "cart"}, ""},
		{"another", []string{"bearer  " + other}, Account{"store", "stock.v2"}, ""},
		{"after a header of another scheme", []string{"Basic x", "Bearer " + token}, Account{"shop", "cart"}, ""},
		{"unknown", []string{"Bearer " + token + "0"}, Account{}, unknown},
		{"its beginning", []string{"Bearer " + token[:16]}, Account{}, unknown},
		{"a comment", []string{"Bearer #"}, Account{}, unknown},
		{"empty", []string{"Bearer "}, Account{}, none},
		{"no scheme", []string{token}, Account{}, none},
		{"none", nil, Account{}, none},
	} {
		account, err := f.Authenticate(withHeader(t, tc.header...))
		if account != tc.want || (err == nil) != (tc.text == "") || err != nil && err.Error() != tc.text {
			t.Errorf("%s: %v, %v", tc.name, account, err)
		}
	}
}

func TestTokensAreReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	if _, err := OpenTokens(path); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no file: %v", err)
	}
	write(t, path, token+" shop/cart\n", 0o600)
	f, err := OpenTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	known := func() Account {
		account, _ := f.Authenticate(withHeader(t, "Bearer "+token))
		return account
	}
	for _, step := range []struct {
		content string
		want    Account
	}{
		{token + " shop/cart\n", Account{"shop", "cart"}},
		{token + " shop/card\n", Account{"shop", "card"}}, // of the same size
		{"", Account{}},
		{token + " shop/cart\n", Account{"shop", "cart"}},
	} {
		write(t, path, step.content, 0o600)
		if got := known(); got != step.want {
			t.Errorf("after %q: %v", step.content, got)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := known(); got != (Account{}) {
		t.Errorf("the file is gone, and its token is %v's", got)
	}
	if _, faults := f.Faults(); len(faults) != 1 || !strings.Contains(faults[0], "no such file") {
		t.Errorf("the file is gone: %q", faults)
	}
}

func TestFaultsOfTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	second := strings.Repeat("z", 20)
	write(t, path, strings.Join([]string{
		token + " shop/cart",
		token,
		second + " shop",
		second + " Shop/cart",
		second + " shop/cart more",
		token + " store/stock",
		"short shop/short",
		second + " shop/../cart",
		second + " shop/last",
	}, "\n"), 0o644)
	f, err := OpenTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"line 2 is not <token> <namespace>/<service account>; it is ignored",
		"line 3 does not end with <namespace>/<service account>; it is ignored",
		"line 4 does not end with <namespace>/<service account>; it is ignored",
		"line 5 is not <token> <namespace>/<service account>; it is ignored",
		"line 6 has the token of line 1; it is ignored",
		"line 7 has a token of less than 16 characters, which can be guessed",
		"line 8 does not end with <namespace>/<service account>; it is ignored",
		"it has mode 0644, with which other users may read or change its tokens: chmod 600",
	}
	_, faults := f.Faults()
	if !slices.Equal(faults, want) {
		t.Errorf("got  %q\nwant %q", faults, want)
	}
	for _, fault := range faults {
		if strings.Contains(fault, token) || strings.Contains(fault, second) {
			t.Errorf("it has a token: %s", fault)
		}
	}
	for _, tc := range []struct {
		token string
		want  Account
	}{{token, Account{"shop", "cart"}}, {"short", Account{"shop", "short"}}, {second, Account{"shop", "last"}}} {
		if got, err := f.Authenticate(withHeader(t, "Bearer "+tc.token)); got != tc.want {
			t.Errorf("%v, %v, want %v", got, err, tc.want)
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, faults := f.Faults(); len(faults) != len(want)-1 {
		t.Errorf("after chmod: %q", faults)
	}
	write(t, path, strings.Repeat("x", largestTokenFile+1), 0o600)
	if _, faults := f.Faults(); len(faults) != 1 || !strings.Contains(faults[0], "at most 1048576 bytes") {
		t.Errorf("too large: %q", faults)
	}
}
