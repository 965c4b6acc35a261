package meshconfig_test

import (
	"fmt"
	"testing"

	"github.com/meshpilot/pilot/internal/meshgen"
	"github.com/meshpilot/pilot/pkg/meshconfig"
)

func BenchmarkCompile(b *testing.B) {
	for _, size := range []int{100, 1000, 5000} {
		bundle := meshgen.Bundle(size, 50, meshgen.MutualTLS())
		if in, problems := meshconfig.Compile(bundle, "cluster.local"); len(in.Services) != size || len(problems) != 0 {
			b.Fatalf("%d services, problems %v", len(in.Services), problems)
		}
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				meshconfig.Compile(bundle, "cluster.local")
			}
		})
	}
}

// BenchmarkInputs leaves out the snapshot and the lints.
func BenchmarkInputs(b *testing.B) {
	for _, size := range []int{100, 1000, 5000} {
		bundle := meshgen.Bundle(size, 50, meshgen.MutualTLS())
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				meshconfig.Inputs(bundle, "cluster.local")
			}
		})
	}
}
