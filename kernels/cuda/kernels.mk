# The CUDA kernels: their PTX, and their tests on a CPU. The Makefile at the root includes this.

CUDA         := kernels/cuda
CLANG        := clang++-19
PTX          := $(CUDA)/ptx/kernels.sm_80.ptx $(CUDA)/ptx/kernels.sm_90a.ptx
PTX_FLAGS    := -x cuda --cuda-device-only -nocudainc -nocudalib -S -O3 -std=c++17 -ffp-contract=off -Wall -Wextra -Werror
# Of each PTX: its source, what it is compiled for, and which GPUs it is assembled for. sm_90a is compute capability 9.0 and no other.
PTX_SOURCE_sm_80  := kernels.cu
PTX_SOURCE_sm_90a := kernels_sm_90a.cu
PTX_FLAGS_sm_80   := --cuda-gpu-arch=sm_80 --cuda-feature=+ptx70
PTX_FLAGS_sm_90a  := --cuda-gpu-arch=sm_90a --cuda-feature=+ptx80
PTXAS_ARCHS_sm_80  := sm_80 sm_90 sm_100
PTXAS_ARCHS_sm_90a := sm_90a
# How many bytes of registers a kernel may spill to memory there, and how many registers a thread may have.
SPILL_BUDGET_sm_80  := 0
SPILL_BUDGET_sm_90a := 0
REGISTER_BUDGET_sm_80  := 255
REGISTER_BUDGET_sm_90a := 248
NVCC_WHEEL   := nvidia-cuda-nvcc-cu12==12.9.86
PTXAS        := $(CACHE)/cuda-nvcc/nvidia/cuda_nvcc/bin/ptxas

arch_of = $(patsubst kernels.%.ptx,%,$(notdir $(1)))
# $(call ptx,FILE) writes the PTX of that name.
define ptx
	@command -v $(CLANG) >/dev/null || { echo "missing: $(CLANG); install clang-19 (Debian's name) and run again"; exit 1; }
	mkdir -p $(dir $(1))
	$(CLANG) $(PTX_FLAGS) $(PTX_FLAGS_$(call arch_of,$(1))) $(CUDA)/$(PTX_SOURCE_$(call arch_of,$(1))) -o $(1)

endef

gen: gen-ptx
.PHONY: gen-ptx
gen-ptx:
	$(foreach file,$(PTX),$(call ptx,$(file)))

# $(call assemble,FILE,PTXAS): it assembles, within the budgets, and with no wait among products on their way that the source has not.
define assemble
	@for arch in $(PTXAS_ARCHS_$(call arch_of,$(1))); do \
	  $(2) -arch=$$arch -v $(1) -o /dev/null 2>&1 | awk -v budget=$(SPILL_BUDGET_$(call arch_of,$(1))) -v registers=$(REGISTER_BUDGET_$(call arch_of,$(1))) -v arch=$$arch ' \
	    /error|fatal/ { print; bad = 1 } \
	    /wgmma.*serialized|warpgroup.*injected/ { print arch ": " $$0; bad = 1 } \
	    /Compiling entry function/ { name = $$7; kernels++ } \
	    /spill stores/ { if ($$5 + $$9 > budget || $$1 > budget) { print arch ": kernel " name " spills, or has arrays in memory: " $$0; bad = 1 } } \
	    match($$0, /Used [0-9]+ registers/) { n = substr($$0, RSTART + 5) + 0; if (n > most) most = n; if (n > registers) { print arch ": kernel " name " has " n " registers"; bad = 1 } } \
	    END { if (!kernels) { print arch ": no kernel was assembled"; bad = 1 } else if (!bad) print arch ": " kernels " kernels assembled, none spills more than " budget " bytes or has more than " most " registers"; exit bad }' \
	  || exit 1; \
	done

endef

# $(call check-rounding,FILES): no instruction flushes subnormal numbers, approximates, or leaves it to the assembler to fuse a
# multiplication and an addition, but for the powers of two of attention in bfloat16, whose class names the GPU.
define check-rounding
	@awk '/\.entry / { named = /attention_bf16_/ } named && /ex2\.approx\.ftz\.f32/ { next } \
	  /\.ftz|\.approx|\.full|(^|[^a-z.])(add|sub|mul|fma|mad|div|sqrt)\.f(32|64)([^0-9]|$$)/ { print FILENAME ":" FNR ": " $$0; bad = 1 } \
	  END { if (bad) print "these round in another way than the CPU"; exit bad }' $(1)
endef

# The PTX is what the sources say, rounds as the CPU, and assembles.
check: check-ptx
.PHONY: check-ptx
check-ptx: $(PTXAS)
	$(foreach file,$(PTX),$(call ptx,$(CACHE)/ptx/$(notdir $(file))))
	@for file in $(PTX); do \
	  diff -q $$file $(CACHE)/ptx/$${file##*/} || { echo "$$file is not what $(CUDA)/*.cu says: run make gen and commit the result"; exit 1; }; \
	done
	$(call check-rounding,$(PTX))
	$(foreach file,$(PTX),$(call assemble,$(file),$(PTXAS)))

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
