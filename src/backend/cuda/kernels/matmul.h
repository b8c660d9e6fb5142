// A quantised matrix times any number of rows of activations: what prefill does.
//
// A warp has two tiles and 64 rows of activations (columns of the product). For each block of 32 weights it makes the tiles' A
// fragments, once, and for each 8 columns the integer sums of both tiles by one `mma` each; every sum then enters its chain,
// acc = fma(f32(sum), f32(block scale) * d, acc), in a register. These three float operations a sum are what bounds it.
//
// Stages of four blocks come by `cp.async` into shared memory: tiles as they are, codes as [block][column][32], where a quarter
// of a warp reads 128 bytes in a row, scales as [block][column].
#pragma once
#include "matrix.h"

// `matmul_shape` in args/matrix.rs has the same.
#define MATMUL_COLUMNS 64u
#define MATMUL_TILES 2u
#define MATMUL_CHUNK 4u

// Bytes of a stage's codes of one block: 32 more than it has, so that copies of a column's blocks hit different banks.
#define CODES_BYTES (MATMUL_COLUMNS * BLOCK + 32)
#define SCALES_BYTES (MATMUL_COLUMNS * 4)
#define ACTIVATIONS_BYTES (MATMUL_CHUNK * (CODES_BYTES + SCALES_BYTES))

// Where a thread of a launch is.
struct MatmulAt {
  // Of the block of threads: its first column, and how many there are.
  u32 first_column;
  u32 columns;
  u32 first_tile;
  u32 warp;
  u32 lane;
};

template <class T> struct MatmulPlan {
  enum : u32 {
    TILE_BYTES = MATMUL_CHUNK * T::BLOCK_BYTES,
    FRAGMENTS = MATMUL_COLUMNS / 8,
    // Pieces of 16 bytes of a tile's stage.
    PIECES = TILE_BYTES / 16,
    // More do not fit into the shared memory that every device has.
    STAGES = T::BLOCK_BYTES < 400 ? 3 : 2
  };
};

template <class T> DEVICE u32 matmul_stage_bytes() {
  return blockDim.x / 32 * MATMUL_TILES * MatmulPlan<T>::TILE_BYTES + ACTIVATIONS_BYTES;
}

// Starts the copies of the blocks from `first` on; `blocks0` and `blocks1` is what the warp's tiles' blocks begin with.
template <class T>
DEVICE void start_stage(const MatrixArgs &args, const MatmulAt &at, const u8 *blocks0, const u8 *blocks1, u8 *stage, u32 first) {
  typedef MatmulPlan<T> Plan;
  const u32 left = args.n_blocks - first, n = left < MATMUL_CHUNK ? left : MATMUL_CHUNK;
  u8 *const tiles = stage + ACTIVATIONS_BYTES + at.warp * MATMUL_TILES * Plan::TILE_BYTES;
#pragma unroll
  for (u32 i = 0; i < (MATMUL_TILES * Plan::PIECES + 31) / 32; i++) {
    const u32 both = at.lane + 32 * i, piece = both < Plan::PIECES ? both : both - Plan::PIECES;
    if (both < MATMUL_TILES * Plan::PIECES && 16 * piece < n * T::BLOCK_BYTES) {
      const u8 *const from = both < Plan::PIECES ? blocks0 : blocks1;
      cp_async_16(tiles + 16 * both, from + static_cast<u64>(first) * T::BLOCK_BYTES + 16 * piece);
    }
  }
  for (u32 i = threadIdx.x; i < at.columns * MATMUL_CHUNK * 2; i += blockDim.x) {
    const u32 column = i / (MATMUL_CHUNK * 2), block = i / 2 % MATMUL_CHUNK, half = i % 2;
    if (block < n) {
      const u64 from = (static_cast<u64>(at.first_column + column) * args.n_blocks + first + block) * BLOCK;
      cp_async_16(stage + block * CODES_BYTES + column * BLOCK + 16 * half, args.codes + from + 16 * half);
    }
  }
  for (u32 i = threadIdx.x; i < at.columns * MATMUL_CHUNK; i += blockDim.x) {
    const u32 column = i / MATMUL_CHUNK, block = i % MATMUL_CHUNK;
    if (block < n) {
      const float *const from = args.scales + static_cast<u64>(at.first_column + column) * args.n_blocks + first + block;
      cp_async_4(stage + MATMUL_CHUNK * CODES_BYTES + block * SCALES_BYTES + 4 * column, from);
    }
  }
}

// One block of both tiles times all columns.
template <class T>
DEVICE void multiply(const MatmulAt &at, u32 half_turn, const u8 *stage, u32 block, float (&acc)[MATMUL_TILES][MATMUL_COLUMNS / 8][4]) {
  typedef MatmulPlan<T> Plan;
  const u32 g = at.lane / 4, t = at.lane % 4;
  u32 a[MATMUL_TILES][4];
  float scales[MATMUL_TILES][T::HALVES][2];
#pragma unroll
  for (u32 i = 0; i < MATMUL_TILES; i++) {
    const u8 *const from = stage + ACTIVATIONS_BYTES + (at.warp * MATMUL_TILES + i) * Plan::TILE_BYTES + block * T::BLOCK_BYTES;
    u32 bytes[T::HALVES];
#pragma unroll
    for (u32 half = 0; half < T::HALVES; half++) {
      bytes[half] = *reinterpret_cast<const u16 *>(from + 16 * half + 2 * g);
      T::scales(bytes[half], scales[i][half]);
    }
    T::exact(T::load(from, g, t), bytes, t, half_turn, a[i]);
  }
  const u8 *const codes = stage + block * CODES_BYTES + g * BLOCK + 8 * t;
  const u8 *const ds = stage + MATMUL_CHUNK * CODES_BYTES + block * SCALES_BYTES + 8 * t;
#pragma unroll
  for (u32 n = 0; n < Plan::FRAGMENTS; n++) {
    // Columns that there are not cost nothing, by sixteens.
    if (n % 2 == 0 && 8 * n >= at.columns) break;
    const uint2 words = *reinterpret_cast<const uint2 *>(codes + 8 * n * BLOCK);
    const float2 d = *reinterpret_cast<const float2 *>(ds + 32 * n);
#pragma unroll
    for (u32 i = 0; i < MATMUL_TILES; i++) {
#pragma unroll
      for (u32 half = 0; half < T::HALVES; half++) {
        i32 sums[4];
        if constexpr (T::HALVES == 2) {
          const u32 part[2] = {a[i][2 * half], a[i][2 * half + 1]};
          mma_sum(sums, part, half == 0 ? words.x : words.y);
        } else {
          const u32 b[2] = {words.x, words.y};
          mma_sum(sums, a[i], b);
        }
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
          const float scale = scales[i][half][j / 2] * (j % 2 == 0 ? d.x : d.y);
          acc[i][n][j] = __fmaf_rn(plain_sum<T>(sums[j]), scale, acc[i][n][j]);
        }
      }
    }
  }
}

// Writes the products of a tile.
DEVICE void put_tile(const MatrixArgs &args, const MatmulAt &at, u32 tile, const float (&acc)[MATMUL_COLUMNS / 8][4]) {
  if (tile >= args.n_tiles) return;
  const TileAt to = tile_at(args, tile);
  const RowsAt rows = rows_at(to);
  const u32 g = at.lane / 4, t = at.lane % 4;
#pragma unroll
  for (u32 row = 0; row < 2; row++) {
    if (2 * g + row < rows.n) {
      const float row_scale = reinterpret_cast<const float *>(to.bytes)[2 * g + row];
#pragma unroll
      for (u32 n = 0; n < MATMUL_COLUMNS / 8; n++) {
#pragma unroll
        for (u32 c = 0; c < 2; c++) {
          const u32 column = 8 * n + 2 * t + c;
          if (column < at.columns) {
            put_product(to.part, at.first_column + column, rows.first + 2 * g + row, acc[n][2 * row + c] * row_scale);
          }
        }
      }
    }
  }
}

template <class T> DEVICE void matmul(const MatrixArgs &args, u8 *shared) {
  const u32 first_column = blockIdx.x * MATMUL_COLUMNS, left = args.rows - first_column, warp = threadIdx.x / 32;
  const MatmulAt at = {first_column, left < MATMUL_COLUMNS ? left : MATMUL_COLUMNS,
                       (blockIdx.y * (blockDim.x / 32) + warp) * MATMUL_TILES, warp, threadIdx.x % 32};
  // A tile that there is not is another one, whose products are not written.
  const u32 last = args.n_tiles - 1;
  const u8 *const blocks0 = tile_at(args, at.first_tile < last ? at.first_tile : last).bytes + TILE_HEADER;
  const u8 *const blocks1 = tile_at(args, at.first_tile + 1 < last ? at.first_tile + 1 : last).bytes + TILE_HEADER;
  float acc[MATMUL_TILES][MATMUL_COLUMNS / 8][4];
#pragma unroll
  for (u32 i = 0; i < MATMUL_TILES; i++) {
#pragma unroll
    for (u32 n = 0; n < MATMUL_COLUMNS / 8; n++) {
#pragma unroll
      for (u32 j = 0; j < 4; j++) acc[i][n][j] = 0.0f;
    }
  }
  const u32 bytes = matmul_stage_bytes<T>(), chunks = (args.n_blocks + MATMUL_CHUNK - 1) / MATMUL_CHUNK;
  for (u32 i = 0; i < MatmulPlan<T>::STAGES - 1; i++) {
    if (i < chunks) start_stage<T>(args, at, blocks0, blocks1, shared + i * bytes, i * MATMUL_CHUNK);
    cp_async_commit();
  }
  for (u32 chunk = 0; chunk < chunks; chunk++) {
    cp_async_wait<MatmulPlan<T>::STAGES - 2>();
    // This chunk is there for all, and all are done with the one before it, whose stage is the next to be filled.
    __syncthreads();
    const u32 ahead = chunk + MatmulPlan<T>::STAGES - 1;
    if (ahead < chunks) start_stage<T>(args, at, blocks0, blocks1, shared + ahead % MatmulPlan<T>::STAGES * bytes, ahead * MATMUL_CHUNK);
    cp_async_commit();
    const u8 *const stage = shared + chunk % MatmulPlan<T>::STAGES * bytes;
#pragma unroll 1
    for (u32 block = 0; block < MATMUL_CHUNK; block++) {
      if (chunk * MATMUL_CHUNK + block < args.n_blocks) multiply<T>(at, args.half_turn, stage, block, acc);
    }
  }
#pragma unroll
  for (u32 i = 0; i < MATMUL_TILES; i++) put_tile(args, at, at.first_tile + i, acc[i]);
}

// The entry for a type.
#define MATMUL(name, T)                     \
  KERNEL_BOUNDS(name, MatrixArgs, 256, 2) { \
    SHARED(u8, shared);                     \
    matmul<T>(args, shared);                \
  }
