// The operations in terms of lanes, for one instruction set: include a lanes_*.h first.

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#include "ops_elements.h"
#include "ops_rows.h"
#include "ops_conv.h"
#include "ops_matmul.h"
#include "ops_attention.h"
#include "ops_reduce_kernels.h"
#include "ops_reduce_fused.h"
#include "ops_reduce.h"
#include "ops_quantize.h"

#define STRING_(a) #a
#define STRING(a) STRING_(a)

const farandole_ops JOIN(farandole_ops_, ISA) = {
    .name = STRING(ISA),
    .tile_rows = MR,
    .panel_columns = PANEL,
    .attention_work = op_attention_work,
    .add = op_add,
    .scale = op_scale,
    .gelu = op_gelu,
    .gelu_backward = op_gelu_backward,
    .relu = op_relu,
    .relu_backward = op_relu_backward,
    .adamw = op_adamw,
    .matmul_in_place = op_matmul_in_place,
    .matmul_pack_rows = op_matmul_pack_rows,
    .matmul_pack_columns = op_matmul_pack_columns,
    .matmul_columns = op_matmul_columns,
    .matmul_rows = op_matmul_rows,
    .column_sums = op_column_sums,
    .embed = op_embed,
    .embed_backward = op_embed_backward,
    .layernorm = op_layernorm,
    .layernorm_rows = op_layernorm_rows,
    .layernorm_columns = op_layernorm_columns,
    .add_columns = op_add_columns,
    .max_pool = op_max_pool,
    .max_pool_backward = op_max_pool_backward,
    .attention = op_attention,
    .attention_backward = op_attention_backward,
    .cross_entropy = op_cross_entropy,
    .block_sums = op_block_sums,
    .reduce = op_reduce,
    .encode_bf16 = op_encode_bf16,
    .decode_bf16 = op_decode_bf16,
    .encode_int8 = op_encode_int8,
    .decode_int8 = op_decode_int8,
    .residual = op_residual,
    .first_nonfinite = op_first_nonfinite,
    .copy_past = op_copy_past,
    .dot_loop = op_dot_loop,
    .dot_flops = 4L * 16 * FMA_CHAINS,
    .fma_loop = op_fma_loop,
    .fma_flops = 2L * 16 * FMA_CHAINS,
};
