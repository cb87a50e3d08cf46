//go:build cgo && linux

// The register tiles of a float32 matrix product on AVX-512, in assembly: gcc moves chains between registers, and its tiles take 3 to 14 % longer.
// ops_matmul.h says what a tile is and has the types of its arguments, to whose fields the offsets below belong.
//
// The chains of row i are zmm(2i) and zmm(2i+1), zmm28 and zmm29 are the panel's values, zmm30 a factor of the row. Rows are packed, one after another
// for each term, or in place, with an address for every three of them. The panel is packed, or strided: then the tile packs what it reads.

#define args_a 0
#define args_ai 8
#define args_b 16
#define args_bs 24
#define args_keep 32
#define args_depth 40
#define args_c 48
#define args_ldc 56
#define args_cols 64
#define args_bias 72
#define args_add 80
#define args_walks 88

// The walks over lines that will be wanted: of what the panel's packing reads next, and of the rows or the panel of the next tile.
#define walk_p 0
#define walk_row 8
#define walk_here 16
#define walk_each 24
#define walk_step 32
#define walk_left 40
#define walk_size 48

#define args %r15
#define step %rcx
#define panel %rsi
#define apart %rbp
#define keep %r14
#define depth %rdx
#define walks %rdi
#define line %rbx
#define turns %r12
#define sums %r13

// Of a tile in place the rows 0, 3, 6, 9 and 12.
#define row0 %rax
#define row3 %r8
#define row6 %r9
#define row9 %r10
#define row12 %r11

.macro row place, rows, u, i, base, beyond, x, y
	.if \i < \rows
	.if \place
	.if \beyond
	vbroadcastss 4 * \u(\base, step, \beyond), %zmm30
	.else
	vbroadcastss 4 * \u(\base), %zmm30
	.endif
	.else
	vbroadcastss 4 * (\u * \rows + \i)(row0), %zmm30
	.endif
	vfmadd231ps %zmm28, %zmm30, %zmm\x
	vfmadd231ps %zmm29, %zmm30, %zmm\y
	.endif
.endm

// term multiplies the term that is u after where addresses are. What the panel's value eight terms later is in goes to the first cache.
.macro term place, strided, rows, u
	.if \strided
	vmovups (panel), %zmm28
	vmovups 64(panel), %zmm29
	prefetcht0 (panel, apart, 8)
	prefetcht0 64(panel, apart, 8)
	add apart, panel
	vmovups %zmm28, 128 * \u(keep)
	vmovups %zmm29, 128 * \u + 64(keep)
	.else
	vmovups 128 * \u(panel), %zmm28
	vmovups 128 * \u + 64(panel), %zmm29
	prefetcht0 128 * (\u + 8)(panel)
	prefetcht0 128 * (\u + 8) + 64(panel)
	.endif
	row \place, \rows, \u, 0, row0, 0, 0, 1
	row \place, \rows, \u, 1, row0, 1, 2, 3
	row \place, \rows, \u, 2, row0, 2, 4, 5
	row \place, \rows, \u, 3, row3, 0, 6, 7
	row \place, \rows, \u, 4, row3, 1, 8, 9
	row \place, \rows, \u, 5, row3, 2, 10, 11
	row \place, \rows, \u, 6, row6, 0, 12, 13
	row \place, \rows, \u, 7, row6, 1, 14, 15
	row \place, \rows, \u, 8, row6, 2, 16, 17
	row \place, \rows, \u, 9, row9, 0, 18, 19
	row \place, \rows, \u, 10, row9, 1, 20, 21
	row \place, \rows, \u, 11, row9, 2, 22, 23
	row \place, \rows, \u, 12, row12, 0, 24, 25
	row \place, \rows, \u, 13, row12, 1, 26, 27
.endm

// walk goes on by four or eight lines. Integers are computed where multiplications are, so it is not for the innermost loop.
.macro walk o, lines
	decq \o + walk_left(walks)
	js 9f
	mov \o + walk_p(walks), line
	prefetcht1 (line)
	prefetcht1 64(line)
	prefetcht1 128(line)
	prefetcht1 192(line)
	.if \lines == 8
	prefetcht1 256(line)
	prefetcht1 320(line)
	prefetcht1 384(line)
	prefetcht1 448(line)
	.endif
	add $64 * \lines, line
	decq \o + walk_here(walks)
	jnz 8f
	mov \o + walk_row(walks), line
	add \o + walk_step(walks), line
	mov line, \o + walk_row(walks)
	mov \o + walk_each(walks), turns
	mov turns, \o + walk_here(walks)
8:
	mov line, \o + walk_p(walks)
9:
.endm

// advance goes on by n terms.
.macro advance place, strided, rows, n
	.if \strided
	add $128 * \n, keep
	.else
	add $128 * \n, panel
	.endif
	.if \place
	add $4 * \n, row0
	add $4 * \n, row3
	add $4 * \n, row6
	add $4 * \n, row9
	add $4 * \n, row12
	.else
	add $4 * \n * \rows, row0
	.endif
.endm

// each does something for every row, whose chains are x and y.
.macro each rows, do
	\do 0, \rows, 0, 1
	\do 1, \rows, 2, 3
	\do 2, \rows, 4, 5
	\do 3, \rows, 6, 7
	\do 4, \rows, 8, 9
	\do 5, \rows, 10, 11
	\do 6, \rows, 12, 13
	\do 7, \rows, 14, 15
	\do 8, \rows, 16, 17
	\do 9, \rows, 18, 19
	\do 10, \rows, 20, 21
	\do 11, \rows, 22, 23
	\do 12, \rows, 24, 25
	\do 13, \rows, 26, 27
.endm

.macro begin i, rows, x, y
	.if \i < \rows
	vpxord %zmm\x, %zmm\x, %zmm\x
	vpxord %zmm\y, %zmm\y, %zmm\y
	.endif
.endm

.macro add_sums i, rows, x, y
	.if \i < \rows
	vmovups (%r8), %zmm28{%k1}{z}
	vmovups 64(%r8), %zmm29{%k2}{z}
	vaddps %zmm\x, %zmm28, %zmm\x
	vaddps %zmm\y, %zmm29, %zmm\y
	add %r9, %r8
	.endif
.endm

.macro add_bias i, rows, x, y
	.if \i < \rows
	vaddps %zmm28, %zmm\x, %zmm\x
	vaddps %zmm29, %zmm\y, %zmm\y
	.endif
.endm

.macro store i, rows, x, y
	.if \i < \rows
	vmovups %zmm\x, (%r8){%k1}
	vmovups %zmm\y, 64(%r8){%k2}
	add %r9, %r8
	.endif
.endm

.macro tile name, place, strided, rows
	.globl farandole_\name\()_\rows
	.hidden farandole_\name\()_\rows
	.type farandole_\name\()_\rows, @function
	.p2align 6
farandole_\name\()_\rows:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rdi, args
	each \rows, begin
	mov args_c(args), sums
	mov $\rows, depth
	imul args_ldc(args), depth
	lea (sums, depth, 4), depth
	push depth
	mov args_a(args), row0
	.if \place
	mov args_ai(args), step
	shl $2, step
	lea (step, step, 2), row12
	lea (row0, row12), row3
	lea (row3, row12), row6
	lea (row6, row12), row9
	add row9, row12
	.endif
	mov args_b(args), panel
	.if \strided
	mov args_bs(args), apart
	shl $2, apart
	mov args_keep(args), keep
	.endif
	mov args_walks(args), walks
	mov args_depth(args), depth
	shr $2, depth
	jz 3f
1:
	walk 0, 4
	walk walk_size, 8
	// Three rows of the sums; all at once would keep the panel's lines waiting.
	cmp (%rsp), sums
	jae 6f
	mov args_ldc(args), line
	.rept 3
	prefetchw (sums)
	prefetchw 64(sums)
	lea (sums, line, 4), sums
	.endr
6:
	mov $8, turns
	cmp turns, depth
	cmovb depth, turns
	sub turns, depth
	.p2align 6
2:
	term \place, \strided, \rows, 0
	term \place, \strided, \rows, 1
	term \place, \strided, \rows, 2
	term \place, \strided, \rows, 3
	advance \place, \strided, \rows, 4
	dec turns
	jnz 2b
	test depth, depth
	jnz 1b
3:
	mov args_depth(args), depth
	and $3, depth
	jz 5f
4:
	term \place, \strided, \rows, 0
	advance \place, \strided, \rows, 1
	dec depth
	jnz 4b
5:
	mov args_cols(args), %rax
	mov $-1, %edx
	bzhi %eax, %edx, %edx
	kmovw %edx, %k1
	shr $16, %edx
	kmovw %edx, %k2
	mov args_ldc(args), %r9
	shl $2, %r9
	cmpq $0, args_add(args)
	je 6f
	mov args_c(args), %r8
	each \rows, add_sums
6:
	mov args_bias(args), %rax
	test %rax, %rax
	jz 7f
	vmovups (%rax), %zmm28{%k1}{z}
	vmovups 64(%rax), %zmm29{%k2}{z}
	each \rows, add_bias
7:
	mov args_c(args), %r8
	each \rows, store
	vzeroupper
	pop %rax
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret
	.size farandole_\name\()_\rows, . - farandole_\name\()_\rows
.endm

.macro tiles name, place, strided
	.irp rows, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14
	tile \name, \place, \strided, \rows
	.endr
.endm

	.text
	tiles packed, 0, 0
	tiles packed_keep, 0, 1
	tiles placed, 1, 0
	tiles placed_keep, 1, 1

	.section .note.GNU-stack, "", @progbits
