# Everything that people and CI run. `make help` lists the targets.

# Tools are pinned here and run from the module cache; go.mod knows nothing of them.
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
BUF           := github.com/bufbuild/buf/cmd/buf@v1.75.0
GEN_GO        := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
GEN_GO_GRPC   := google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
BENCHSTAT     := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da

# Knobs: `make sim SEEDS=1000000`.
SEEDS        ?= 100000
FUZZTIME     ?= 20s
SOAK_OPS     ?= 1000000
SOAK_PATHS   ?= shm,uds,tcp
BENCH        ?= .
BENCHCOUNT   ?= 6
TEST_TIMEOUT ?= 15m
LINTFLAGS    ?=
# The packages that start goroutines, and the arithmetic with its thread pool.
RACE_PKGS    ?= ./checkpoint/... ./cmd/... ./collective/... ./coordinator/... ./elastic/... ./kernels/... ./worker/...

# Which tests are the simulator's and the process tests.
SIM_RUN := Sim
E2E_RUN := E2E|Script

PB    := coordinator/coordinatorpb
CACHE := $(CURDIR)/.cache

.DEFAULT_GOAL := help
SHELL         := bash
.SHELLFLAGS   := -euo pipefail -c

include kernels/cuda/kernels.mk
include kernels/cuda/gpu.mk
include kernels/cuda/nvcc.mk
include kernels/cuda/bundle.mk

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r t d; do printf '  %-17s %s\n' "$$t" "$$d"; done

# ---- build and show

.PHONY: build
build: ## build farandole and the examples gpt, mnist and bare into bin/
	mkdir -p bin
	go build -o bin/ ./cmd/farandole ./examples/...

.PHONY: demo
demo: build ## train under faults and undisturbed, then compare the weights
	examples/demo.sh

# ---- test

# $(call some-test,PATTERN,PACKAGE) fails when no test has such a name: go test would pass.
define some-test
	@list=$$(go test -list '$(1)' $(2)); grep -q '^Test' <<<"$$list" || { echo "no test of $(2) matches $(1)"; exit 1; }
endef

.PHONY: test
test: ## run all tests, the process tests included
	go test -timeout $(TEST_TIMEOUT) ./...

.PHONY: race
race: ## run the short tests under the race detector
	CGO_ENABLED=1 go test -race -short -timeout 20m $(RACE_PKGS)

.PHONY: portable
portable: ## run the kernels' tests without cgo: plain Go must give the same bits
	CGO_ENABLED=0 go test -short -timeout $(TEST_TIMEOUT) ./kernels/...

# How programs for arm64 are built and run elsewhere. Debian has a C library for them where ARM64_LIBS says.
ARM64_CC   ?= aarch64-linux-gnu-gcc
ARM64_QEMU ?= qemu-aarch64
ARM64_LIBS ?= /usr/aarch64-linux-gnu
ARM64_RUN   = $(ARM64_QEMU) -L $(ARM64_LIBS)
ARM64_TEST  = GOARCH=arm64 CC=$(ARM64_CC) go test -short -timeout $(TEST_TIMEOUT) -exec '$(ARM64_RUN)'

# The kernels with NEON, portable C and plain Go; then without cgo; then a job whose workers are of two architectures.
.PHONY: test-arm64
test-arm64: ## run the kernels' tests, and workers, as programs for arm64 under QEMU; needs a cross compiler
	@for tool in $(ARM64_CC) $(ARM64_QEMU); do \
	  command -v $$tool >/dev/null || { echo "missing: $$tool; install gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user (Debian's names) and run again"; exit 1; }; \
	done
	$(call some-test,TestArm64,./cmd/farandole)
	$(call some-test,Pinned,./kernels)
	$(call some-test,TrainingHasTheSameBits,./kernels/nn)
	CGO_ENABLED=1 $(ARM64_TEST) ./kernels ./kernels/kernelstest ./kernels/nn
	CGO_ENABLED=0 $(ARM64_TEST) -run 'Pinned|TrainingHasTheSameBits' ./kernels ./kernels/nn
	mkdir -p $(CACHE)/arm64
	CGO_ENABLED=1 GOARCH=arm64 CC=$(ARM64_CC) go build -o $(CACHE)/arm64/ ./examples/gpt
	go test -count=1 -timeout $(TEST_TIMEOUT) -run TestArm64 ./cmd/farandole -e2e.arm64-gpt '$(ARM64_RUN) $(CACHE)/arm64/gpt'

.PHONY: sanitize
sanitize: ## run the kernels' tests under gcc's sanitizers of addresses and undefined behaviour
	CGO_ENABLED=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 go test -asan -short -timeout 30m ./kernels/...

.PHONY: sim
sim: ## simulate SEEDS jobs under random faults
	$(call some-test,$(SIM_RUN),./elastic/elastictest)
	go test -count=1 -timeout 60m -run '$(SIM_RUN)' ./elastic/elastictest -sim.seeds=$(SEEDS)

.PHONY: e2e
e2e: ## run the process tests alone: real binaries, real signals
	$(call some-test,$(E2E_RUN),./cmd/farandole)
	go test -count=1 -timeout $(TEST_TIMEOUT) -run '$(E2E_RUN)' ./cmd/farandole

.PHONY: e2e-net
e2e-net: ## run the process tests on hosts whose network fails: needs root, ip, tc and nsenter
	$(call some-test,TestNet,./cmd/farandole)
	go test -count=1 -timeout $(TEST_TIMEOUT) -v -run 'TestNet' ./cmd/farandole -e2e.net

.PHONY: soak
soak: ## run SOAK_OPS mixed collectives on each path among processes that die and come back
	$(call some-test,TestSoak,./collective/transport/auto)
	go test -count=1 -timeout 120m -v -run 'TestSoak' ./collective/transport/auto -soak.ops=$(SOAK_OPS) -soak.paths=$(SOAK_PATHS)

# One target per go test call is what -fuzz allows.
.PHONY: fuzz
fuzz: ## fuzz every fuzz target for FUZZTIME
	@for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r dirname | sort -u); do \
	  list=$$(go test -list '^Fuzz' $$dir); \
	  for target in $$(grep '^Fuzz' <<<"$$list" || true); do \
	    echo "== $$dir $$target"; \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$dir; \
	  done; \
	done

# An endpoint allocates and fills 17 MiB at once. Kept by malloc they need not be asked of the kernel again for the next group.
FABRIC_MALLOC := glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=4294967296

.PHONY: test-fabric
test-fabric: ## test the libfabric transport; needs libfabric-dev
	@pkg-config --exists libfabric 2>/dev/null || echo '#include <rdma/fabric.h>' | $${CC:-cc} -E - >/dev/null 2>&1 || \
	  { echo "missing: libfabric's headers; install libfabric-dev (Debian's name) and run again"; exit 1; }
	CGO_ENABLED=1 go vet -tags fabric ./collective/transport/fabric
	GLIBC_TUNABLES=$(FABRIC_MALLOC) CGO_ENABLED=1 go test -tags fabric -count=1 -timeout $(TEST_TIMEOUT) ./collective/transport/fabric

.PHONY: bench
bench: ## run the benchmarks that BENCH matches, BENCHCOUNT times, and summarise
	mkdir -p $(CACHE)
	go test -run '^$$' -bench '$(BENCH)' -count $(BENCHCOUNT) -timeout 60m ./... | tee $(CACHE)/bench.txt
	go run $(BENCHSTAT) $(CACHE)/bench.txt

# ---- keep the house

.PHONY: lint
lint: ## run golangci-lint; its first run also builds it
	go run $(GOLANGCI_LINT) run $(LINTFLAGS) ./...

# $(call generate,DIR) writes the code generated from the .proto files under DIR.
define generate
	mkdir -p $(CACHE)/bin $(1)
	GOBIN=$(CACHE)/bin go install $(GEN_GO)
	GOBIN=$(CACHE)/bin go install $(GEN_GO_GRPC)
	cd $(PB) && PATH="$(CACHE)/bin:$$PATH" go run $(BUF) generate -o $(1)
endef

.PHONY: gen
gen: ## regenerate the gRPC code from coordinator.proto, and PTX from the CUDA kernels
	$(call generate,$(CURDIR)/$(PB))

.PHONY: check
check: check-gen check-fmt check-docs check-mod check-build check-fused ## check generated code and PTX, format, links, go.mod, vet, and the builds without cgo

.PHONY: check-gen
check-gen:
	rm -rf $(CACHE)/gen
	$(call generate,$(CACHE)/gen)
	@for f in $(CACHE)/gen/*.go; do \
	  diff -u $(PB)/$$(basename $$f) $$f || { echo "$(PB) is not what coordinator.proto says: run make gen and commit the result"; exit 1; }; \
	done

.PHONY: check-fmt
check-fmt:
	@bad=$$(find . -name '*.go' -not -path './.cache/*' -print0 | xargs -0 gofmt -l); \
	if [ -n "$$bad" ]; then echo "not formatted, run gofmt -w:"; echo "$$bad"; exit 1; fi

.PHONY: check-mod
check-mod:
	go mod tidy -diff
	go mod verify

# Relative links of the documents, and documents that the code names.
.PHONY: check-docs
check-docs:
	@bad=0; \
	while IFS=: read -r file link; do \
	  path=$${link%%#*}; \
	  if [ -n "$$path" ] && [ ! -e "$$(dirname "$$file")/$$path" ]; then echo "$$file links to $$link, which is missing"; bad=1; fi; \
	done < <(find . -name '*.md' -not -path './.cache/*' -print0 | xargs -0 grep -HoP '\]\(\K(?!https?:|mailto:)[^) ]+'); \
	while IFS=: read -r file doc; do \
	  if [ ! -e "$$doc" ]; then echo "$$file names $$doc, which is missing"; bad=1; fi; \
	done < <(grep -rHo --exclude-dir=.cache --include='*.go' --include='*.proto' --include='*.sh' 'docs/[a-zA-Z0-9/_-]*\.md' . | sort -u); \
	exit $$bad

# vet type-checks the tests too, so a test that needs cgo without saying so is found here.
.PHONY: check-build
check-build:
	go vet ./...
	CGO_ENABLED=0 go vet ./...
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build ./...

# On arm64 Go makes one fused instruction of x*y + z, which rounds once, unless the product is converted. What training computes
# must not have any, but where the product is exact (fma.go, reference_bf16.go) or nothing depends on the last bit (Flops).
TRAINING := farandole/(checkpoint|collective|elastic|kernels|worker)
.PHONY: check-fused
check-fused:
	@mkdir -p $(CACHE)
	@GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -o $(CACHE)/ ./examples/gpt ./examples/mnist
	@all=$$(for p in gpt mnist; do go tool objdump -s '$(TRAINING)' $(CACHE)/$$p; done | \
	  awk '/^TEXT/ { in_function = $$2 } /FN?M(ADD|SUB)[SD]/ { print "  " $$1 " in " in_function }' | sort -u); \
	grep -q ' fma\.go:' <<<"$$all" || { echo "found not even the fused instructions of fma.go: does objdump name them otherwise?"; exit 1; }; \
	bad=$$(grep -vE ' (fma|reference_bf16)\.go:|\)\.Flops\(' <<<"$$all" || true); \
	if [ -n "$$bad" ]; then echo "fused on arm64: write float32(x*y) + z, or float64(x*y) + z"; echo "$$bad"; exit 1; fi

.PHONY: clean
clean: ## remove what the other targets wrote
	rm -rf bin dist .cache
