# Programs with the tag cuda, and their tests on a driver that runs the kernels on the CPU.
#
# They are built with CUDA's headers alone, which come from PyPI. libcuda.so.1 is looked for when a GPU is wanted, so the linker
# is content with an empty one.

GPU        := $(CACHE)/cuda
CUDA_12    := nvidia-cuda-runtime-cu12==12.9.79
SHA256_12  := 25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3
CUDA_13    := nvidia-cuda-runtime==13.0.96
SHA256_13  := 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
HEADERS_12 := $(GPU)/12/nvidia/cuda_runtime/include
HEADERS_13 := $(GPU)/13/nvidia/cu13/include

# $(call wheel,NAME==VERSION,SHA256,DIR) unpacks a wheel of PyPI into DIR.
define wheel
	@command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 || { echo "missing: pip, to fetch $(1); install python3-pip and run again"; exit 1; }
	@rm -rf $(3) && mkdir -p $(3)/wheel
	@echo '$(1) --hash=sha256:$(2)' > $(3)/wheel/requirements.txt
	python3 -m pip download -q --no-deps --only-binary=:all: --platform manylinux2014_x86_64 --platform manylinux_2_18_x86_64 --platform manylinux_2_27_x86_64 --require-hashes -d $(3)/wheel -r $(3)/wheel/requirements.txt
	@python3 -m zipfile -e $(3)/wheel/*.whl $(3) && rm -r $(3)/wheel
endef

$(HEADERS_12)/cuda.h:
	$(call wheel,$(CUDA_12),$(SHA256_12),$(GPU)/12)

$(HEADERS_13)/cuda.h:
	$(call wheel,$(CUDA_13),$(SHA256_13),$(GPU)/13)

$(GPU)/link/libcuda.a:
	mkdir -p $(@D) && ar rc $@

# gcc reads these; unlike CGO_CFLAGS they leave packages without CUDA in the build cache.
WITH_CUDA := C_INCLUDE_PATH=$(HEADERS_12) LIBRARY_PATH=$(GPU)/link CGO_ENABLED=1 GOFLAGS="$$(go env GOFLAGS) -tags=cuda"

.PHONY: build-cuda
build-cuda: $(HEADERS_12)/cuda.h $(GPU)/link/libcuda.a ## build farandole and the examples with GPUs into bin/cuda/
	mkdir -p bin/cuda
	$(WITH_CUDA) go build -o bin/cuda/ ./cmd/farandole ./examples/...

.PHONY: lint-cuda
lint-cuda: $(HEADERS_12)/cuda.h ## run golangci-lint on what is built with the tag cuda too
	C_INCLUDE_PATH=$(HEADERS_12) CGO_ENABLED=1 go run $(GOLANGCI_LINT) run --build-tags cuda $(LINTFLAGS) ./...

# ---- the driver for tests

EMULATOR := kernels/cuda/emulator
EMULATED := $(patsubst %,$(GPU)/emulator/%.o,driver driver_graph driver_ipc driver_library driver_ptx emulator copies tiles products fiber kernels)
# The processor's own fused multiply-add is much faster than the library's.
EMULATOR_FLAGS := -std=c++17 -O2 -march=native -ffp-contract=off -fPIC -fvisibility=hidden -Wall -Wextra -Wno-unknown-pragmas

$(GPU)/emulator/%.o: $(EMULATOR)/%.cc $(wildcard $(EMULATOR)/*.h kernels/cuda/*.h kernels/cuda/*.cu) $(HEADERS_12)/cuda.h
	@mkdir -p $(@D)
	$(CXX) $(EMULATOR_FLAGS) -isystem $(HEADERS_12) -c $< -o $@

$(GPU)/emulator/libcuda.so.1: $(EMULATED)
	$(CXX) -shared -o $@ $^ -lpthread

$(GPU)/emulator/libnvidia-ml.so.1: $(EMULATOR)/nvml.cc
	@mkdir -p $(@D)
	$(CXX) $(EMULATOR_FLAGS) -shared $< -o $@

$(GPU)/emulator/libcublasLt.so.13: $(EMULATOR)/cublaslt.cc $(EMULATOR)/driver_library.h $(EMULATOR)/refuse.h $(wildcard kernels/cuda/cublaslt_*.h)
	@mkdir -p $(@D)
	$(CXX) $(EMULATOR_FLAGS) -shared $< -o $@ -ldl

$(GPU)/emulator/libnccl.so.2: $(EMULATOR)/nccl.cc $(EMULATOR)/driver_library.h $(EMULATOR)/refuse.h $(wildcard kernels/cuda/nccl_*.h)
	@mkdir -p $(@D)
	$(CXX) $(EMULATOR_FLAGS) -shared $< -o $@ -ldl -lpthread

# No test that needs the emulator may be skipped then. What the tag does not change, race has tested.
WITH_EMULATOR := $(WITH_CUDA) LD_LIBRARY_PATH=$(GPU)/emulator FARANDOLE_TEST_EMULATOR=1

.PHONY: test-cuda
test-cuda: $(GPU)/emulator/libcuda.so.1 $(GPU)/emulator/libcublasLt.so.13 $(GPU)/emulator/libnccl.so.2 $(GPU)/emulator/libnvidia-ml.so.1 $(GPU)/link/libcuda.a $(HEADERS_13)/cuda.h ## test programs with GPUs, on a driver that runs the kernels on the CPU
	$(WITH_CUDA) go vet ./kernels/... ./worker/... ./cmd/... ./examples/...
	$(WITH_EMULATOR) go test -race -timeout $(TEST_TIMEOUT) ./kernels/cuda/...
	FARANDOLE_EMULATOR_LAZY=1 $(WITH_EMULATOR) go test -timeout $(TEST_TIMEOUT) ./kernels/cuda/... ./kernels/nn -run 'GPU|Conformance|Bits'
	$(WITH_EMULATOR) go test -timeout $(TEST_TIMEOUT) ./kernels/cuda -run '^$$' -bench . -benchtime 1x -gpu.tiny
	$(WITH_EMULATOR) go test -race -short -timeout $(TEST_TIMEOUT) ./kernels/nn ./worker/... ./cmd/...
	$(WITH_EMULATOR) go test -count=1 -timeout $(TEST_TIMEOUT) ./cmd/farandole -run 'GPU'
	CGO_CFLAGS="-O1 -I$(CURDIR)/kernels/cuda/compat -I$(HEADERS_13)" CGO_ENABLED=1 go build -tags cuda ./kernels/cuda/...

# ---- cuBLASLt's ABI

CUBLAS_12        := nvidia-cublas-cu12==12.9.3.13
CUBLAS_SHA256_12 := d7d51055f161b317c7105ddaae90e71eda059026074ffef93cf7cde2886bfe72
CUBLAS_13        := nvidia-cublas==13.10.0.20
CUBLAS_SHA256_13 := dcc6d63884c53d07e267ce7e6feac17b2538cebaafec5db865736c3e28e4dc84
CRT_12           := nvidia-cuda-nvcc-cu12==12.9.86
CRT_SHA256_12    := 5d6a0d32fdc7ea39917c20065614ae93add6f577d840233237ff08e9a38f58f0
CRT_13           := nvidia-cuda-crt==13.0.88
CRT_SHA256_13    := 2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4

# $(call cublaslt,MAJOR,CUBLAS,CRT) compares with the headers of one version. cuda_fp16.h wants nv/target for C++ alone.
define cublaslt
	@mkdir -p $(GPU)/cublas/empty/nv && touch $(GPU)/cublas/empty/nv/target
	$(CC) -std=c11 -Wall -Wextra -Werror -fsyntax-only $(addprefix -isystem ,$(HEADERS_$(1)) $(GPU)/cublas/$(1)/$(2)/include $(GPU)/cublas/crt$(1)/$(3)/include $(GPU)/cublas/empty) \
	  kernels/cuda/abi/cublaslt.c
	@echo "cuBLASLt's ABI is that of $(CUBLAS_$(1))"
endef

# It fetches a gigabyte, so CI does without, and nothing of that is kept.
.PHONY: check-cublaslt
check-cublaslt: $(HEADERS_12)/cuda.h $(HEADERS_13)/cuda.h ## compare what is said of cuBLASLt with NVIDIA's headers, of versions 12 and 13
	$(call wheel,$(CUBLAS_12),$(CUBLAS_SHA256_12),$(GPU)/cublas/12)
	$(call wheel,$(CRT_12),$(CRT_SHA256_12),$(GPU)/cublas/crt12)
	$(call cublaslt,12,nvidia/cublas,nvidia/cuda_nvcc)
	$(call wheel,$(CUBLAS_13),$(CUBLAS_SHA256_13),$(GPU)/cublas/13)
	$(call wheel,$(CRT_13),$(CRT_SHA256_13),$(GPU)/cublas/crt13)
	$(call cublaslt,13,nvidia/cu13,nvidia/cu13)
	@rm -rf $(GPU)/cublas

# ---- NCCL's ABI

# The oldest version that is accepted, and a new one.
NCCL_12        := nvidia-nccl-cu12==2.18.3
NCCL_SHA256_12 := 89cf220910c43e53df992f54f7aa2a35c6d606b077c9ae95b1f17c544d3ad3f3
NCCL_13        := nvidia-nccl-cu13==2.31.2
NCCL_SHA256_13 := 0bcaf0308854cb55fcc35af72e2c83143f3b71e65a4e865e2c586b1cdcdb5ae0

# $(call nccl,MAJOR,CRT) compares with the header of one version.
define nccl
	@mkdir -p $(GPU)/nccl/empty/nv && touch $(GPU)/nccl/empty/nv/target
	$(CC) -std=c11 -Wall -Wextra -Werror -fsyntax-only $(addprefix -isystem ,$(HEADERS_$(1)) $(GPU)/nccl/$(1)/nvidia/nccl/include $(GPU)/nccl/crt$(1)/$(2)/include $(GPU)/nccl/empty) \
	  kernels/cuda/abi/nccl.c
	@echo "NCCL's ABI is that of $(NCCL_$(1))"
endef

# It fetches half a gigabyte, so CI does without, and nothing of that is kept.
.PHONY: check-nccl
check-nccl: $(HEADERS_12)/cuda.h $(HEADERS_13)/cuda.h ## compare what is said of NCCL with NVIDIA's headers, of versions 2.18 and 2.31
	$(call wheel,$(NCCL_12),$(NCCL_SHA256_12),$(GPU)/nccl/12)
	$(call wheel,$(CRT_12),$(CRT_SHA256_12),$(GPU)/nccl/crt12)
	$(call nccl,12,nvidia/cuda_nvcc)
	$(call wheel,$(NCCL_13),$(NCCL_SHA256_13),$(GPU)/nccl/13)
	$(call wheel,$(CRT_13),$(CRT_SHA256_13),$(GPU)/nccl/crt13)
	$(call nccl,13,nvidia/cu13)
	@rm -rf $(GPU)/nccl
