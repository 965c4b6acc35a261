package identity

import (
	"fmt"
	"testing"
)

// BenchmarkSign signs for a key that is there, as the CSR service does.
func BenchmarkSign(b *testing.B) {
	for _, k := range []KeyType{ECDSA, RSA} {
		b.Run("CA="+k.String(), func(b *testing.B) {
			ca, err := New(Options{KeyType: k})
			if err != nil {
				b.Fatal(err)
			}
			key, err := k.generate()
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := ca.Sign(Request{URI: cart, Key: key.Public()}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
		})
	}
}

// BenchmarkIssue makes the key too, as for Secrets.
func BenchmarkIssue(b *testing.B) {
	for _, k := range []KeyType{ECDSA, RSA} {
		b.Run(fmt.Sprintf("key=%s", k), func(b *testing.B) {
			ca, err := New(Options{KeyType: k})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := ca.Issue(cart, 0); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pairs/s")
		})
	}
}
