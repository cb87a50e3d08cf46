// Which tile of a product of bfloat16 a block of threads has.
#ifndef FARANDOLE_CUDA_MMA_TILE_H
#define FARANDOLE_CUDA_MMA_TILE_H

#include "arithmetic.h"

enum { MMA_GROUP = 8 };  // tiles that follow each other down a column

// The tile of this block: tiles come in groups of MMA_GROUP rows of them, column by column, so that blocks that run at the same time
// share rows of a and columns of b.
struct mma_tile {
  int row, column;

  DEVICE mma_tile mine(int m, int n) {
    const int down = (m + MMA_ROWS - 1) / MMA_ROWS, across = (n + MMA_COLUMNS - 1) / MMA_COLUMNS, b = blockIdx.x;
    const int first = b / (MMA_GROUP * across) * MMA_GROUP, in_group = b % (MMA_GROUP * across);
    const int height = static_cast<int>(least(MMA_GROUP, down - first));
    return {(first + in_group % height) * MMA_ROWS, in_group / height * MMA_COLUMNS};
  }
};

#endif
