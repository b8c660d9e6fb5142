// A matrix of floats times rows of activations: acc = fma(w[k], x[k], acc) for all k in order, a lane for each row of a tile.
//
// A block of threads is one warp with two tiles (lanes 0 to 15 and 16 to 31) and up to 16 rows of activations. K is one chain a
// product, so that a warp cannot be faster than the latency of `fma`; what it needs comes by `cp.async`, many stages ahead.
#include "numerics.h"
#include "matrix.h"

// Bytes of a tile of a stage: 32 k of 2-byte weights, 16 of 4-byte ones.
#define STAGE_BYTES 1024u

struct F32 {
  typedef float Bits;
  DEVICE static float weight(float x) { return x; }
};

struct F16 {
  typedef u16 Bits;
  DEVICE static float weight(u16 bits) { return half_to_float(bits); }
};

struct Bf16 {
  typedef u16 Bits;
  DEVICE static float weight(u16 bits) { return bf16_to_float(bits); }
};

// `float_shape` in args/matrix.rs has the same.
template <class T, u32 Rows> struct FloatPlan {
  enum : u32 {
    // k of a stage.
    DEPTH = STAGE_BYTES / (TILE_ROWS * sizeof(typename T::Bits)),
    STAGES = Rows <= 2 ? 16 : 8,
    // Two tiles, and the activations of up to 32 k.
    BYTES = 2 * STAGE_BYTES + Rows * 128,
    // Pieces of 16 bytes of a row's activations, and how many of all rows' a lane copies.
    PIECES = DEPTH / 4,
    COPIES = (Rows * PIECES + 31) / 32
  };
};

// A lane's copies, of the next stage.
template <class T, u32 Rows> struct FloatCopies {
  typedef FloatPlan<T, Rows> Plan;
  const u8 *tiles[2];
  const float *x[Plan::COPIES];
  SharedAt ring;
  u32 slot;

  DEVICE void find(const MatrixArgs &args, u8 *shared) {
    const u32 lane = threadIdx.x, tile = 2 * blockIdx.x, last_tile = args.n_tiles - 1;
    // A tile or a row that there is not is another one, whose products are not written.
    tiles[0] = tile_at(args, tile).bytes + 16 * lane;
    tiles[1] = tile_at(args, tile < last_tile ? tile + 1 : last_tile).bytes + 16 * lane;
#pragma unroll
    for (u32 i = 0; i < Plan::COPIES; i++) {
      const u32 piece = lane + 32 * i, row = blockIdx.y * Rows + piece / Plan::PIECES, last = args.rows - 1;
      x[i] = args.x + static_cast<u64>(row < last ? row : last) * args.n_blocks * BLOCK + piece % Plan::PIECES * 4;
    }
    ring = shared_at(shared + 16 * lane);
    slot = 0;
  }

  DEVICE void start() {
    const SharedAt to = ring + slot * Plan::BYTES;
#pragma unroll
    for (u32 i = 0; i < 4; i++) copy_16(to + 512 * i, tiles[i / 2] + 512 * (i % 2));
#pragma unroll
    for (u32 i = 0; i < Plan::COPIES; i++) {
      if (threadIdx.x + 32 * i < Rows * Plan::PIECES) copy_16(to + 2 * STAGE_BYTES + 512 * i, x[i]);
      x[i] += Plan::DEPTH;
    }
    tiles[0] += STAGE_BYTES;
    tiles[1] += STAGE_BYTES;
    slot = (slot + 1) % Plan::STAGES;
  }
};

template <class T, u32 Rows> DEVICE void matrix_float_rows(const MatrixArgs &args, u8 *shared) {
  typedef FloatPlan<T, Rows> Plan;
  const u32 lane = threadIdx.x % TILE_ROWS, half = threadIdx.x / TILE_ROWS;
  const u32 stages = args.n_blocks * BLOCK / Plan::DEPTH;
  FloatCopies<T, Rows> ahead;
  ahead.find(args, shared);
  float acc[Rows];
#pragma unroll
  for (u32 row = 0; row < Rows; row++) acc[row] = 0.0f;
  for (u32 i = 0; i < Plan::STAGES - 1; i++) {
    if (i < stages) ahead.start();
    cp_async_commit();
  }
  for (u32 stage = 0; stage < stages; stage++) {
    cp_async_wait<Plan::STAGES - 2>();
    // The stage is there for all lanes, and all are done with the one before it, whose place the next copies take.
    __syncwarp(FULL);
    if (stage + Plan::STAGES - 1 < stages) ahead.start();
    cp_async_commit();
    const u8 *const from = shared + stage % Plan::STAGES * Plan::BYTES;
    const typename T::Bits *const weights = reinterpret_cast<const typename T::Bits *>(from + half * STAGE_BYTES) + lane;
    const float *const x = reinterpret_cast<const float *>(from + 2 * STAGE_BYTES);
    // With few rows the loads of all k are to be under way early; with many, 8 k are work enough.
#pragma unroll (Rows <= 2 ? 8 : 2)
    for (u32 k = 0; k < Plan::DEPTH; k += 4) {
      float w[4];
#pragma unroll
      for (u32 i = 0; i < 4; i++) w[i] = T::weight(weights[(k + i) * TILE_ROWS]);
#pragma unroll
      for (u32 row = 0; row < Rows; row++) {
        const float4 v = *reinterpret_cast<const float4 *>(x + row * Plan::DEPTH + k);
        acc[row] = __fmaf_rn(w[0], v.x, acc[row]);
        acc[row] = __fmaf_rn(w[1], v.y, acc[row]);
        acc[row] = __fmaf_rn(w[2], v.z, acc[row]);
        acc[row] = __fmaf_rn(w[3], v.w, acc[row]);
      }
    }
  }
  const u32 first_tile = 2 * blockIdx.x, last_tile = args.n_tiles - 1;
  if (first_tile + half > last_tile) return;
  const TileAt at = tile_at(args, first_tile + half);
  const RowsAt rows = rows_at(at);
  if (lane >= rows.n) return;
#pragma unroll
  for (u32 row = 0; row < Rows; row++) {
    if (blockIdx.y * Rows + row < args.rows) put_product(at.part, blockIdx.y * Rows + row, rows.first + lane, acc[row]);
  }
}

template <class T> DEVICE void matrix_float(const MatrixArgs &args, u8 *shared) {
  if (args.rows == 1) {
    matrix_float_rows<T, 1>(args, shared);
  } else if (args.rows == 2) {
    matrix_float_rows<T, 2>(args, shared);
  } else if (args.rows <= 4) {
    matrix_float_rows<T, 4>(args, shared);
  } else if (args.rows <= 8) {
    matrix_float_rows<T, 8>(args, shared);
  } else {
    matrix_float_rows<T, 16>(args, shared);
  }
}

KERNEL_BOUNDS(chaski_matrix_f32, MatrixArgs, 32, 8) {
  SHARED(u8, shared);
  matrix_float<F32>(args, shared);
}

KERNEL_BOUNDS(chaski_matrix_f16, MatrixArgs, 32, 8) {
  SHARED(u8, shared);
  matrix_float<F16>(args, shared);
}

KERNEL_BOUNDS(chaski_matrix_bf16, MatrixArgs, 32, 8) {
  SHARED(u8, shared);
  matrix_float<Bf16>(args, shared);
}
