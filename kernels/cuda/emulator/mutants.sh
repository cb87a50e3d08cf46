#!/usr/bin/env bash
# Plants one mistake at a time into a copy of the kernels and wants the tests to find it, each by the sentence that it should be found by.
# usage: mutants.sh DIR CXX FLAGS…   DIR has the objects of the tests and of the emulator
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$(cd "$1" && pwd)
shift

# name | file | text | replacement | test | what it must say
mutants() {
	cat <<'END'
out-of-bounds-store|elements.cu|if (e < at.count) x[at.i + e] = r.v[e];|x[at.i + e] = r.v[e];|scale|heap-buffer-overflow
misaligned-load|elements.cu|addresses(arrays...) % sizeof(float4) == 0|addresses(arrays...) % sizeof(float) == 0|scale|no multiple of 16
wrong-chain-order|matmul.cu|s.add(pa + t * MATMUL_STRIDE + y, pb + t * MATMUL_STRIDE + x)|s.add(pa + (t ^ 1) * MATMUL_STRIDE + y, pb + (t ^ 1) * MATMUL_STRIDE + x)|matmul_tn|, want
divergent-barrier|sums.cu|    __syncthreads();\n    if (threadIdx.x == 0) {|    if (threadIdx.x == 5) return;\n    __syncthreads();\n    if (threadIdx.x == 0) {|sums|has returned, but thread 0 waits
divergent-shuffle|rows.cu|  x += me.row * c;\n|  if (!me.exists) return;\n  x += me.row * c;\n|layernorm|waits for lane 16, which has returned
copies-not-waited-for|matmul_bf16.cu|wait_copies(MMA_STAGES - 2);\n    __syncthreads|wait_copies(MMA_STAGES - 1);\n    __syncthreads|matmul_bf16_nt|to which a copy is on its way
copies-in-no-group|matmul_bf16.cu|    commit_copies();\n||matmul_bf16_nn|to which a copy is on its way
copy-to-a-stage-in-use|matmul_bf16.cu|from == 0 ? (MMA_STAGES - 1) * MMA_STAGE : from - MMA_STAGE|from|matmul_bf16_tn|another thread has read with no barrier between
copy-from-outside|matmul_bf16.cu|s * APART < lines && values > 0|s * APART < lines|matmul_bf16_nt|heap-buffer-overflow
same-banks|matmul_bf16.cu|(chunk ^ (CHUNKS == 4 ? line / 2 % 4 : line % 8)) * 4|chunk * 4|matmul_bf16_tn|in the same banks
divergent-matrix-unit|matmul_bf16.cu|tile.row + part_a < m &&|tile.row + part_a + lane / 4 < m &&|matmul_bf16_nn|waits for lane
wgmma-sums-not-handed-over|matmul_bf16_wgmma.cu|      before_products();\n||matmul_bf16_wgmma_nt|no fence has handed its sums over
wgmma-copies-not-published|matmul_bf16_wgmma.cu|      publish_copies();\n||matmul_bf16_wgmma_nn|has written and not published
wgmma-published-behind-the-barrier|matmul_bf16_wgmma.cu|      publish_copies();\n      __syncthreads();|      __syncthreads();\n      publish_copies();|matmul_bf16_wgmma_tn|has written and not published
wgmma-copies-not-waited-for|matmul_bf16_wgmma.cu|wait_copies(WGMMA_AHEAD - 1)|wait_copies(WGMMA_AHEAD)|matmul_bf16_wgmma_nt|to which a copy is on its way
wgmma-products-not-waited-for|matmul_bf16_wgmma.cu|      wait_products(1);\n|      wait_products(3);\n|matmul_bf16_wgmma_tn|which a product on its way reads
wgmma-sums-not-waited-for|matmul_bf16_wgmma.cu|    take_sums(s);|    wait_products(1);|matmul_bf16_wgmma_nn|, want
wgmma-sums-touched|matmul_bf16_wgmma.cu|      wait_products(1);\n|      wait_products(1);\n      s[5] = s[5] + 1.0f;\n|matmul_bf16_wgmma_nt|sums were changed
wgmma-wrong-stage|matmul_bf16_wgmma.cu|to = WGMMA_AHEAD * WGMMA_STAGE;|to = (WGMMA_AHEAD - 1) * WGMMA_STAGE;|matmul_bf16_wgmma_nt|to which a copy is on its way
wgmma-wrong-descriptor-stride|wgmma.h|static_cast<uint64_t>(EIGHT_LINES >> 4) << 32|static_cast<uint64_t>(2 * EIGHT_LINES >> 4) << 32|matmul_bf16_wgmma_nt|, want
wgmma-wrong-descriptor-leading|wgmma.h|static_cast<uint64_t>(TILE_BYTES >> 4) << 16|static_cast<uint64_t>(EIGHT_LINES >> 4) << 16|matmul_bf16_wgmma_nn|, want
wgmma-other-lines|wgmma.h|static_cast<uint64_t>(1) << 62|static_cast<uint64_t>(2) << 62|matmul_bf16_wgmma_nt|is not of lines of 128 bytes
wgmma-chunks-not-exchanged|matmul_bf16_wgmma.cu|(chunk % 8 ^ line % 8) * 16|chunk % 8 * 16|matmul_bf16_wgmma_tn|, want
wgmma-chunks-exchanged-otherwise|matmul_bf16_wgmma.cu|(chunk % 8 ^ line % 8) * 16|(chunk % 8 ^ line / 2 % 8) * 16|matmul_bf16_wgmma_nt|, want
wgmma-tile-anywhere|matmul_bf16_wgmma.cu|swizzled(place_of(memory))|place_of(memory)|matmul_bf16_wgmma_nt|a tile begins at address
wgmma-same-terms-again|matmul_bf16_wgmma.cu|        y += next_terms(B_ALONG_K);\n||matmul_bf16_wgmma_nn|, want
wgmma-not-transposed|matmul_bf16_wgmma.cu|start_product(A_ALONG_K, B_ALONG_K,|start_product(A_ALONG_K, true,|matmul_bf16_wgmma_nn|, want
wgmma-one-group-alone|matmul_bf16_wgmma.cu|      before_products();\n|      if (threadIdx.x / WARP % 4 != 1) before_products();\n      before_products();\n|matmul_bf16_wgmma_nt|have not done the same
wgmma-sums-kept|matmul_bf16_wgmma.cu|    int add = 0;|    int add = at > 0;|matmul_bf16_wgmma_nt|, want
wgmma-copy-from-outside|matmul_bf16_wgmma.cu|s * APART < lines && values > 0|s * APART < lines|matmul_bf16_wgmma_nt|heap-buffer-overflow
attention-copies-not-waited-for|attention_bf16.h|wait_copies(0);\n      settle(0, tile(stage, 0))|wait_copies(1);\n      settle(0, tile(stage, 0))|attention_bf16|to which a copy is on its way
attention-rows-not-waited-for|attention_bf16.h|wait_copies(0);\n      settle(0, to|wait_copies(1);\n      settle(0, to|attention_bf16|to which a copy is on its way
attention-tile-in-use|attention_bf16.h|stage ^= 1|stage ^= 0|attention_bf16|another thread has read with no barrier between
attention-copy-from-outside|attention_bf16.h|copy_async(place_of(to), x, values > 0)|copy_async(place_of(to), x, true)|attention_bf16|heap-buffer-overflow
attention-same-banks|attention_bf16.h|(chunk ^ row % 8) * 4|chunk * 4|attention_bf16|in the same banks
attention-one-key-too-many|attention_bf16.h|first + f.column_of(n, e) > row)|first + f.column_of(n, e) > row + 1)|attention_bf16|, want
attention-not-corrected|attention_bf16.cu|F::correct(o, correction);||attention_bf16|, want
attention-infinite-above-the-diagonal|attention_bf16.cu|if (!diagonal(first)) return f.settle|if (first >= 0) return f.settle|attention_bf16_not_finite|is not finite, but query
attention-dot-not-corrected|attention_bf16_backward.cu|dot[h] = dot[h] * correction[0][h];||attention_bf16|, dq: row
attention-key-without-its-query|attention_bf16_backward.cu|>= key0 + f.row_of(m, e)|> key0 + f.row_of(m, e)|attention_bf16|, dk: row
outside-shared-memory-of-tiles|attention_bf16.h|BEHIND = STAGES + 2 * FLASH_VALUES|BEHIND = STAGES + 4 * FLASH_VALUES|attention_bf16|of an array of
outside-shared-memory|attention.cu|p = memory + 2 * TILE_FLOATS|p = memory + 3 * TILE_FLOATS|attention|of an array of
END
}

try() {
	local IFS='|' name file text replacement test says
	read -r name file text replacement test says <<<"$1"
	local copy=$dir/mutants/$name log=$dir/mutants/$name.log
	rm -rf "$copy"
	mkdir -p "$copy/emulator"
	cp "$here"/../*.cu "$here"/../*.h "$copy"
	cp "$here"/*.h "$here/kernels.cc" "$copy/emulator"
	IFS=' '
	if ! TEXT=$text BY=$replacement perl -0777 -pi -e \
		'BEGIN { ($t, $b) = map { s/\\n/\n/gr } @ENV{qw(TEXT BY)} } s/\Q$t\E/$b/ or die "the text is not there\n"' "$copy/$file" 2>"$log" ||
		grep -q 'the text is not there' "$log"; then
		echo "FAIL $name: $file no longer has the text that the mistake replaces"
		return 1
	fi
	if ! { "${@:2}" -fsanitize=address -c "$copy/emulator/kernels.cc" -o "$copy/kernels.o" &&
		"${@:2}" -fsanitize=address,undefined -o "$copy/kernels" "$copy/kernels.o" "$dir"/test*.o "$dir"/{emulator,copies,tiles,products,fiber,isa_portable}.o -lpthread; } >"$log" 2>&1; then
		echo "FAIL $name: does not compile; $log has why"
		return 1
	fi
	if "$copy/kernels" "$test" >"$log" 2>&1 || ! grep -qF "$says" "$log"; then
		echo "FAIL $name: the tests do not find it by \"$says\"; $log has what they say"
		return 1
	fi
	echo "ok   $name: $(grep -m1 -F "$says" "$log" | cut -c1-150)"
}
export -f try
export here dir

mutants | tr '\n' '\0' | xargs -0 -I{} bash -euo pipefail -c 'try "$@"' try {} "$@"
