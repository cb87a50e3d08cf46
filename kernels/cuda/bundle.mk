# The folder for machines with a GPU and without Go: kernels/cuda/bundle has what runs there.

BUNDLE       := $(CURDIR)/dist/gpu-bundle
BUNDLE_BUILD := $(CACHE)/gpu-bundle
# The folder travels to machines by slow ways.
BUNDLE_MAX_KB := 50000
STRIPPED     := -trimpath -ldflags='-s -w'
# The test program of each package that has tests for a GPU, and which of its tests those are.
BUNDLE_TESTS := cuda:kernels/cuda:. nn:kernels/nn:GPU

.PHONY: gpu-bundle
gpu-bundle: $(HEADERS_12)/cuda.h $(GPU)/link/libcuda.a ## build dist/gpu-bundle: copy it to a machine with a GPU and start run.sh there
	rm -rf $(BUNDLE) $(BUNDLE_BUILD)
	mkdir -p $(BUNDLE)/programs $(BUNDLE)/ptx $(BUNDLE_BUILD)
	$(WITH_CUDA) go build $(STRIPPED) -o $(BUNDLE_BUILD)/ ./cmd/farandole ./examples/gpt ./examples/bare
	CGO_ENABLED=0 go build $(STRIPPED) -o $(BUNDLE_BUILD)/report ./kernels/cuda/bundle
	@for t in $(BUNDLE_TESTS); do \
	  IFS=: read -r name dir pattern <<<"$$t"; \
	  $(WITH_CUDA) go test -c $(STRIPPED) -o $(BUNDLE_BUILD)/$$name.test ./$$dir; \
	  (cd $$dir && $(BUNDLE_BUILD)/$$name.test -test.list "$$pattern") | grep '^Test' | grep -v Hashes | sed "s/^/$$name.test /" >> $(BUNDLE)/gpu-tests.txt; \
	done
	cd $(BUNDLE_BUILD) && ./cuda.test -test.run '^TestWriteHashes$$' -gpu.write-hashes $(BUNDLE)/hashes.json > hashes.log || { tail hashes.log; exit 1; }
	cat README.md docs/*.md > $(BUNDLE)/text.txt
	$(BUNDLE_BUILD)/report -bundle $(BUNDLE) -programs $(BUNDLE_BUILD) -expect $(BUNDLE)/weights.json
	cp kernels/cuda/bundle/run.sh examples/gpt/peers/pytorch_step.py $(BUNDLE)
	cp kernels/cuda/ptx/*.ptx $(BUNDLE)/ptx
	@{ echo "commit $$(git describe --always --abbrev=40 --exclude '*' --dirty 2>/dev/null || echo unknown)"; go version; \
	  echo "needs Linux on $$(go env GOARCH) with $$(cat $(BUNDLE_BUILD)/{farandole,gpt,bare,cuda.test,nn.test} | grep -aoE 'GLIBC_2\.[0-9]+' | sort -uV | tail -1) or newer"; \
	} | tee $(BUNDLE)/VERSION
	gzip -9 $(BUNDLE_BUILD)/{farandole,gpt,bare,report,cuda.test,nn.test}
	mv $(BUNDLE_BUILD)/*.gz $(BUNDLE)/programs/
	@kb=$$(du -sk $(BUNDLE) | cut -f1); echo "$(BUNDLE): $$kb KB"; \
	[ $$kb -le $(BUNDLE_MAX_KB) ] || { echo "it may have $(BUNDLE_MAX_KB)"; exit 1; }

.PHONY: test-gpu-bundle
test-gpu-bundle: gpu-bundle $(GPU)/emulator/libcuda.so.1 $(GPU)/emulator/libcublasLt.so.13 $(GPU)/emulator/libnccl.so.2 $(GPU)/emulator/libnvidia-ml.so.1 ## run gpu-bundle's folder on the driver that computes on the CPU, also with failures
	go test -count=1 -timeout $(TEST_TIMEOUT) -v -run 'Bundle' ./kernels/cuda/bundle -bundle=$(BUNDLE) -emulator=$(GPU)/emulator
