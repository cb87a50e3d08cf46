// How the kernels are launched: what the two sides of a launch both need. Plain C: the Go side reads it too.
// Each kernel's comment says its grid, its block and its dynamic shared memory in these terms.
#ifndef FARANDOLE_CUDA_LAUNCH_H
#define FARANDOLE_CUDA_LAUNCH_H

// Elements: a thread treats ELEMENTS_EACH.
#define ELEMENT_THREADS 256
#define ELEMENTS_EACH 4

// Matrix products: a block computes a tile of the result, in steps of MATMUL_STEP terms.
#define MATMUL_THREADS 256
#define MATMUL_ROWS 128
#define MATMUL_COLUMNS 128
#define MATMUL_STEP 16

// Products of bfloat16: the same, by the matrix unit. A chain has MMA_BLOCK terms, kernels.BlockMMA. ENCODE_EACH factors are rounded at
// a time by a thread, and begin at a multiple of that many in a line.
#define MMA_THREADS 256
#define MMA_ROWS 128
#define MMA_COLUMNS 256
#define MMA_STEP 32
#define MMA_STAGES 4
#define MMA_BLOCK 4096
#define MMA_BYTES (MMA_STAGES * (MMA_ROWS + MMA_COLUMNS) * MMA_STEP * 2)
#define ENCODE_EACH 8

// The same by the matrix unit of compute capability 9.0: tiles, blocks and chains are those of MMA, and TILE_ALIGN bytes more let the first stage
// begin where it may.
#define WGMMA_STEP 64
#define WGMMA_STAGES 4
#define WGMMA_BYTES (WGMMA_STAGES * (MMA_ROWS + MMA_COLUMNS) * WGMMA_STEP * 2 + 1024)

// Sums down columns: a block sums one canonical block of rows, one column a thread.
#define COLUMN_THREADS 128

// Operations row by row: a warp has one row, or two where the row's sums have 16 lanes.
#define ROW_THREADS 256
#define ROWS_BY_WARP 8
#define ROWS_BY_HALF_WARP 16

// A row of logits, and a token's rows of gradients, have a block each.
#define CROSS_ENTROPY_THREADS 512
#define EMBED_THREADS 256

// Sums: a block of threads has SUM_BLOCKS canonical blocks, and SUM_TOTAL_THREADS add up their values.
#define SUM_THREADS 256
#define SUM_BLOCKS 16
#define SUM_TOTAL_THREADS 256

// Attention: a block has ATTENTION_TILE queries or keys, and up to ATTENTION_TILE values of each. Tiles lie in dynamic shared memory,
// the forward pass has 3 of them.
#define ATTENTION_THREADS 256
#define ATTENTION_TILE 64
#define ATTENTION_STRIDE 68
#define ATTENTION_TILE_BYTES (ATTENTION_TILE * ATTENTION_STRIDE * 4)
#define ATTENTION_BYTES (3 * ATTENTION_TILE_BYTES)
#define ATTENTION_BACKWARD_ROWS_BYTES (4 * ATTENTION_TILE_BYTES)
#define ATTENTION_BACKWARD_COLUMNS_BYTES (5 * ATTENTION_TILE_BYTES)

// Attention by the matrix unit, for heads of up to ATTENTION_BF16_MOST values: a block has ATTENTION_BF16_ROWS queries or keys and goes
// through tiles of ATTENTION_BF16_VALUES values of the others. Narrow heads are those of up to ATTENTION_BF16_NARROW values.
#define ATTENTION_BF16_NARROW 64
#define ATTENTION_BF16_MOST 128
#define ATTENTION_BF16_ROWS 128
#define ATTENTION_BF16_VALUES 4096
#define ATTENTION_BF16_THREADS 256
#define ATTENTION_BF16_NARROW_THREADS 128
#define ATTENTION_BF16_BYTES (2 * ATTENTION_BF16_VALUES * 4 + 4 * ATTENTION_BF16_VALUES * 2 + 1536)
#define ATTENTION_BF16_COLUMNS_64_BYTES (ATTENTION_BF16_BYTES + ATTENTION_BF16_ROWS * 64 * 2)
#define ATTENTION_BF16_COLUMNS_128_BYTES (ATTENTION_BF16_BYTES + ATTENTION_BF16_ROWS * 128 * 2)

#endif
