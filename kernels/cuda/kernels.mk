# The CUDA kernels: their PTX, and their tests on a CPU. The Makefile at the root includes this.

CUDA         := kernels/cuda
CLANG        := clang++-19
PTX_ARCH     := sm_80
PTX          := $(CUDA)/ptx/kernels.$(PTX_ARCH).ptx
PTX_FLAGS    := -x cuda --cuda-device-only -nocudainc -nocudalib -S -O3 -std=c++17 -ffp-contract=off -Wall -Wextra -Werror \
                --cuda-gpu-arch=$(PTX_ARCH) --cuda-feature=+ptx70
# Which GPUs the PTX is assembled for, and how many bytes of registers a kernel may spill to memory there.
PTXAS_ARCHS  := sm_80 sm_90 sm_100
SPILL_BUDGET := 8
NVCC_WHEEL   := nvidia-cuda-nvcc-cu12==12.9.86
PTXAS        := $(CACHE)/cuda-nvcc/nvidia/cuda_nvcc/bin/ptxas

# $(call ptx,FILE) writes the kernels' PTX.
define ptx
	@command -v $(CLANG) >/dev/null || { echo "missing: $(CLANG); install clang-19 (Debian's name) and run again"; exit 1; }
	mkdir -p $(dir $(1))
	$(CLANG) $(PTX_FLAGS) $(CUDA)/kernels.cu -o $(1)
endef

gen: gen-ptx
.PHONY: gen-ptx
gen-ptx:
	$(call ptx,$(PTX))

# The PTX is what the sources say; no instruction flushes subnormal numbers, approximates, or leaves it to the assembler to fuse a
# multiplication and an addition, but for the powers of two of attention in bfloat16, whose class names the GPU; and it assembles.
check: check-ptx
.PHONY: check-ptx
check-ptx: $(PTXAS)
	$(call ptx,$(CACHE)/ptx/kernels.ptx)
	@diff -q $(PTX) $(CACHE)/ptx/kernels.ptx || { echo "$(PTX) is not what $(CUDA)/*.cu says: run make gen and commit the result"; exit 1; }
	@awk '/\.entry / { named = /attention_bf16_/ } named && /ex2\.approx\.ftz\.f32/ { next } \
	  /\.ftz|\.approx|\.full|(^|[^a-z.])(add|sub|mul|fma|mad|div|sqrt)\.f(32|64)([^0-9]|$$)/ { print FILENAME ":" NR ": " $$0; bad = 1 } \
	  END { if (bad) print FILENAME ": these round in another way than the CPU"; exit bad }' $(PTX)
	@for arch in $(PTXAS_ARCHS); do \
	  $(PTXAS) -arch=$$arch -v $(PTX) -o /dev/null 2>&1 | awk -v budget=$(SPILL_BUDGET) -v arch=$$arch ' \
	    /error|fatal/ { print; bad = 1 } \
	    /Compiling entry function/ { name = $$7; kernels++ } \
	    /spill stores/ { if ($$5 + $$9 > budget || $$1 > budget) { print arch ": kernel " name " spills, or has arrays in memory: " $$0; bad = 1 } } \
	    END { if (!kernels) { print arch ": no kernel was assembled"; bad = 1 } else if (!bad) print arch ": " kernels " kernels assembled, none spills more than " budget " bytes"; exit bad }' \
	  || exit 1; \
	done

$(PTXAS):
	@command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 || { echo "missing: pip, to fetch $(NVCC_WHEEL); install python3-pip and run again"; exit 1; }
	rm -rf $(CACHE)/cuda-nvcc
	mkdir -p $(CACHE)/cuda-nvcc
	python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: -d $(CACHE)/cuda-nvcc $(NVCC_WHEEL)
	cd $(CACHE)/cuda-nvcc && python3 -m zipfile -e *.whl . && rm *.whl
	chmod +x $@

.PHONY: test-cuda-kernels
test-cuda-kernels: ## test the CUDA kernels on a CPU: bits, bounds, barriers
	$(MAKE) -C $(CUDA)/emulator -j$$(nproc) OUT=$(CACHE)/cuda-kernels test
