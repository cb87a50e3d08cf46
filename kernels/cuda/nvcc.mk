# The CUDA kernels by NVIDIA's compiler: that the sources are its own language too, and that it rounds where clang does. What it makes is
# looked at and thrown away; the PTX that programs have is clang's.

NVCC_13        := nvidia-cuda-nvcc==13.0.88
NVCC_SHA256_13 := 56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
NVVM_13        := nvidia-nvvm==13.0.88
NVVM_SHA256_13 := c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
NVCC_ROOT      := $(GPU)/nvcc/sdk/nvidia/cu13
NVCC           := $(NVCC_ROOT)/bin/nvcc
# -fmad=false is clang's -ffp-contract=off: every multiplication and addition is one that the assembler may not fuse either.
NVCC_FLAGS     := -ptx -std=c++17 -fmad=false -ftz=false -prec-div=true -prec-sqrt=true -Werror all-warnings

# nvcc looks for its other half and for its headers beside itself. nvcc's own wheel comes last: then all is there when make finds it.
$(NVCC):
	$(call wheel,$(CRT_13),$(CRT_SHA256_13),$(GPU)/nvcc/crt)
	$(call wheel,$(NVVM_13),$(NVVM_SHA256_13),$(GPU)/nvcc/nvvm)
	$(call wheel,$(NVCC_13),$(NVCC_SHA256_13),$(GPU)/nvcc/sdk)
	@mv $(GPU)/nvcc/nvvm/nvidia/cu13/nvvm $(NVCC_ROOT)/ && cp -r $(GPU)/nvcc/crt/nvidia/cu13/include $(NVCC_ROOT)/ && rm -r $(GPU)/nvcc/crt $(GPU)/nvcc/nvvm
	@chmod +x $(NVCC_ROOT)/bin/* $(NVCC_ROOT)/nvvm/bin/*

# $(call nvcc,FILE) makes nvcc's FILE of the sources of the PTX of that name.
define nvcc
	@mkdir -p $(dir $(1))
	$(NVCC) $(NVCC_FLAGS) -I$(HEADERS_13) -arch=$(call arch_of,$(1)) $(CUDA)/$(PTX_SOURCE_$(call arch_of,$(1))) -o $(1)

endef

# The kernels of a PTX, and the operations of each that round. How many there are depends on how loops are unrolled.
OPERATIONS := awk '/\.entry / { name = $$0; sub(/.*\.entry /, "", name); sub(/\(.*/, "", name); print name } \
  match($$0, /[ \t](add|sub|mul|fma|mad|div|rcp|sqrt|ex2|mma|wgmma)\.[a-z0-9_.:]*/) { print name, substr($$0, RSTART + 1, RLENGTH - 1) }'
# Operations on numbers that are no floating-point numbers are the compilers' own affair.
define same-operations
	@diff <($(OPERATIONS) $(CUDA)/ptx/$(notdir $(1)) | grep -vE '\.[subw]+[0-9]+$$' | sort -u) <($(OPERATIONS) $(1) | grep -vE '\.[subw]+[0-9]+$$' | sort -u) || \
	  { echo "$(1) has other operations than $(CUDA)/ptx/$(notdir $(1)): clang's are <, nvcc's >"; exit 1; }

endef

NVCC_PTX := $(patsubst $(CUDA)/ptx/%,$(CACHE)/nvcc/%,$(PTX))

# nvcc's wheel is for x86-64.
ifeq ($(shell uname -m),x86_64)
check: check-nvcc
endif
.PHONY: check-nvcc
check-nvcc: $(NVCC) $(HEADERS_13)/cuda.h ## compile the CUDA kernels by nvcc too: they assemble, and round where clang's do
	$(foreach file,$(NVCC_PTX),$(call nvcc,$(file)))
	$(call check-rounding,$(NVCC_PTX))
	$(foreach file,$(NVCC_PTX),$(call same-operations,$(file)))
	$(foreach file,$(NVCC_PTX),$(call assemble,$(file),$(NVCC_ROOT)/bin/ptxas))
