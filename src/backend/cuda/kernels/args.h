// What the kernels are handed; the fields of `src/backend/cuda/args` in their order, documented there.
#pragma once

struct QueryRow {
  u32 pos;
  u32 table;
};

struct Slot {
  u32 row;
  u32 span;
};

struct RowBlock {
  u32 first;
  u32 n;
};

struct PoolArgs {
  u8 *kv;
  const u32 *page_table;
  const QueryRow *query_rows;
  u64 page_bytes;
  u64 layer_offset;
  u32 part_bytes;
  u32 n_kv_heads;
};

struct RopeStoreArgs {
  float *q;
  const float *k;
  const float *v;
  const float *q_norm;
  const float *k_norm;
  const float *rope;
  PoolArgs pool;
  u32 kv_type;
  u32 rows;
  u32 n_heads;
  u32 head_dim;
  u32 q_stride;
  u32 kv_stride;
  float eps;
  u32 pad;
};

struct AttendArgs {
  const float *q;
  float *states;
  PoolArgs pool;
  const Slot *slots;
  const u32 *n_slots;
  u32 window;
  u32 n_heads;
  u32 head_dim;
  u32 q_stride;
  float scale;
  u32 heads;
};

struct AttendMergeArgs {
  const float *states;
  const u32 *row_slots;
  float *out;
  u32 n_heads;
  u32 head_dim;
  u32 out_stride;
  u32 pad;
};

struct AttendRowsArgs {
  const float *q;
  float *out;
  PoolArgs pool;
  const RowBlock *row_blocks;
  u32 window;
  u32 n_heads;
  u32 head_dim;
  u32 q_stride;
  u32 out_stride;
  float scale;
};

struct Codes {
  i8 *codes;
  float *scales;
  i16 *sums;
  float *floats;
  u32 n_blocks;
  u32 round;
};

struct NormQuantizeArgs {
  const float *x;
  const float *weight;
  const u32 *row_index;
  Codes out;
  u32 x_stride;
  u32 dim;
  float eps;
  u32 pad;
};

struct QuantizeArgs {
  const float *x;
  Codes out;
  u32 x_stride;
  u32 n;
};

struct SwigluArgs {
  const float *gate;
  const float *up;
  Codes out;
  u32 stride;
  u32 n;
};

struct MatrixPart {
  const u8 *tiles;
  u64 stride;
  float *out;
  const float *bias;
  const float *residual;
  u32 out_stride;
  u32 n_tiles;
  u32 tiles_per_group;
  u32 row_group;
};

struct MatrixArgs {
  MatrixPart parts[3];
  const i8 *codes;
  const float *scales;
  const i16 *sums;
  const float *x;
  u32 n_tiles;
  u32 n_blocks;
  u32 rows;
  u32 half_turn;
};

struct ReadProbeArgs {
  const uint4 *data;
  u64 n;
  u32 *out;
};
