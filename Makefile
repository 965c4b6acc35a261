# Everything a person or CI does with this repository. `make help` lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

ARGS ?=
FUZZTIME ?= 2m
BENCHTIME ?= 1s
ROTATION ?= 10m
e2e := ./test/e2e/...
say = @echo "==> $(1)"
# Real Envoy, or Kubernetes API, first on PATH (the scripts say what they do), and sbin for iptables.
with_envoy = envoy=$$(hack/envoy.sh) && PATH="$$(dirname "$$envoy"):$$PATH:/usr/sbin:/sbin"
with_kube = kube=$$(hack/kube.sh) && PATH="$$kube:$$PATH"
unit = $$(go list ./... | grep -v -e /test/e2e -e /test/kube)
# Packages whose tests know -update are those with goldens.
goldens = $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -rn1 dirname | sort -u)

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## start the bookinfo mesh with real Envoys on this machine (ARGS="--for 30s")
	$(call say,starting the mesh of examples/bookinfo; Ctrl-C stops it)
	@$(with_envoy) bin/pilot lab examples/bookinfo $(ARGS)

.PHONY: build
build: ## build bin/pilot
	$(call say,building bin/pilot)
	@go build -buildvcs=auto -o bin/pilot ./cmd/pilot

.PHONY: test
test: ## all tests, then real Envoys and a real API server, end to end
	$(call say,checking the format and vetting all packages)
	@unformatted=$$(gofmt -l cmd internal pkg test); [ -z "$$unformatted" ] || { echo "not gofmt-ed (run gofmt -w):" $$unformatted; exit 1; }
	@go vet ./...
	@hack/netns.sh
	$(call say,unit and golden and simulate and ADS and house tests and fuzz seeds)
	@go test $(unit)
	$(call say,real Envoys end to end in both capture modes and on a real Kubernetes API; takes minutes)
	@$(with_kube) && $(with_envoy) go test -p 1 -count=1 -timeout=20m $(e2e) ./test/kube/...

.PHONY: rotation
rotation: ## certificates and a root rotate under load for ROTATION (10m), on real Envoys
	$(call say,rotating certificates for $(ROTATION))
	@$(with_envoy) PILOT_ROTATION=$(ROTATION) go test -count=1 -timeout=2h -run '^TestRotation$$' -v $(e2e) | grep -v 'mode STRICT$$'

.PHONY: golden
golden: ## rewrite the golden files; look at the git diff afterwards
	$(call say,rewriting the goldens)
	@go test -count=1 $(goldens) -update

.PHONY: race
race: ## the tests without real Envoys, with the race detector
	$(call say,testing with the race detector)
	@go test -race $(unit)

.PHONY: fuzz
fuzz: ## fuzz every fuzz target for FUZZTIME (2m)
	@grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's/func //' | while IFS=: read -r file target; do \
		echo "==> fuzzing $$target for $(FUZZTIME)"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$(dirname "$$file")"; done

.PHONY: bench
bench: ## benchmarks of all packages, then pushes to thousands of proxies
	$(call say,benchmarks of all packages)
	@go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) -timeout 60m $(unit)
	$(call say,pushes over real gRPC to proxies in another process)
	@go run ./test/bench/push $(ARGS)
	$(call say,evidence of traffic from proxies in another process)
	@go run ./test/bench/feed

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	$(call say,gofmt and go vet and staticcheck)
	@unformatted=$$(gofmt -l cmd internal pkg test); [ -z "$$unformatted" ] || { echo "not gofmt-ed (run gofmt -w):" $$unformatted; exit 1; }
	@go vet ./...
	@go tool -modfile=tools/go.mod staticcheck ./...
