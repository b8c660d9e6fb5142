// A quantised matrix times 1 to 8 rows of activations: what decoding does, at the rate at which memory gives the weights.
//
// K is not split, but only the chain of `fma` has to be in order; the integer sums have not. So a block of threads has two
// kinds of warps:
//
//   producers   each takes items of a few blocks of a tile in turns: copies them to its own ring in shared memory, items
//               ahead; makes the integer sums by `mma`; leaves (sum, block scale * d) of each row as two floats
//   consumers   one thread for each row of the tile and of the activations: acc = fma(sum, scale, acc), item after item
//
// They hand over W items at a time (a round), one of each producer, in one or two buffers. The items of all tiles of a block of
// threads are one sequence, so nobody waits at the end of a tile.
//
// An `mma` has 8 columns. The activations of a *column* are those of one (block, half, row of activations): with few rows,
// one B fragment has several blocks' activations (a group), each `mma` of the group has one block's weights, and of its
// results those columns are kept that belong to the block. So every lane ends with four sums to scale.
//
// Where the words of a lane are those of others too (Q3) and a group has four blocks or eight, lane t of each four has block t
// instead, all words of its rows. Step e of four multiplies the weights 4 e and 16 + 4 e on of four blocks at once. What keeps the
// blocks apart are zeros in B: a column has the activations of its own block only.
#pragma once
#include "matrix.h"

#define MATVEC_THREADS 288u
// Bytes from a column of results to the next: 16 rows of two floats, and 16 bytes so that lanes hit different banks.
#define COLUMN_BYTES 144u
// Blocks of a ring.
#define RING 16u

// Barriers of a buffer: its results are there; they were read. Constants each, so that no more of them are taken.
DEVICE void wait_full(u32 buffer) {
  if (buffer == 0) bar_sync(1, MATVEC_THREADS);
  else bar_sync(2, MATVEC_THREADS);
}
DEVICE void set_full(u32 buffer) {
  if (buffer == 0) bar_arrive(1, MATVEC_THREADS);
  else bar_arrive(2, MATVEC_THREADS);
}
DEVICE void wait_empty(u32 buffer) {
  if (buffer == 0) bar_sync(3, MATVEC_THREADS);
  else bar_sync(4, MATVEC_THREADS);
}
DEVICE void set_empty(u32 buffer) {
  if (buffer == 0) bar_arrive(3, MATVEC_THREADS);
  else bar_arrive(4, MATVEC_THREADS);
}

// What follows from a type and a number of rows. `matvec_shape` in args/matrix.rs has the same.
template <class T, u32 Rows> struct MatvecPlan {
  enum : u32 {
    COLUMNS = Rows * T::HALVES,
    // `mma`s of a block, blocks of a group, blocks of an item.
    FRAGMENTS = COLUMNS > 8 ? 2 : 1,
    GROUP = COLUMNS > 8 ? 1 : 8 / COLUMNS,
    ITEM = COLUMNS > 8 ? 4 : 8,
    GROUPS = ITEM / GROUP,
    SLOTS = RING / ITEM,
    // Whether lanes have blocks of their own.
    OWN = T::OWN_BLOCKS && GROUP >= 4,
    // Of results: one where two would leave a multiprocessor room for fewer blocks of threads.
    BUFFERS = COLUMNS == 1 || (COLUMNS == 2 && T::BLOCK_BYTES < 300) ? 2 : 1,
    CONSUMERS = (Rows + 1) / 2,
    PRODUCERS = MATVEC_THREADS / 32 - CONSUMERS,
    RESULT_BYTES = ITEM * COLUMNS * COLUMN_BYTES,
    ITEM_BYTES = ITEM * T::BLOCK_BYTES
  };
};

// A producer's copies from the tiles to its ring. Its items are every `PRODUCERS`th of the sequence.
template <class T, u32 Rows> struct Copies {
  typedef MatvecPlan<T, Rows> Plan;
  // Of the next item: its tile, its first block, and what this lane copies first of it.
  u32 tile;
  u32 block;
  const u8 *from;
  SharedAt ring;
  u32 slot;

  // Finds the item at `block`, which may be behind the tile's last one.
  DEVICE void find(const MatrixArgs &args) {
    const u32 padded = (args.n_blocks + Plan::ITEM - 1) / Plan::ITEM * Plan::ITEM;
    while (block >= padded) {
      block -= padded;
      tile += gridDim.x;
    }
    from = tile_at(args, tile).bytes + TILE_HEADER + static_cast<u64>(block) * T::BLOCK_BYTES + 16 * (threadIdx.x % 32);
  }

  // Starts the copies of the next item, item `i` of `n`, if there is one. Returns its first block.
  DEVICE u32 start(const MatrixArgs &args, u32 i, u32 n) {
    const u32 first = block, lane = threadIdx.x % 32;
    if (i < n) {
      const SharedAt to = ring + slot * Plan::ITEM_BYTES;
      const u32 blocks = args.n_blocks - block;
      constexpr u32 WHOLE = Plan::ITEM_BYTES / 512, REST = Plan::ITEM_BYTES % 512;
      if (blocks >= Plan::ITEM) {
#pragma unroll
        for (u32 j = 0; j != WHOLE; j++) copy_16(to + 512 * j, from + 512 * j);
        if (16 * lane < REST) copy_16(to + 512 * WHOLE, from + 512 * WHOLE);
      } else {
#pragma unroll 1
        for (u32 j = 0; 512 * j + 16 * lane < blocks * T::BLOCK_BYTES; j++) copy_16(to + 512 * j, from + 512 * j);
      }
      block += Plan::PRODUCERS * Plan::ITEM;
      from += Plan::PRODUCERS * Plan::ITEM_BYTES;
      if (block >= args.n_blocks && i + 1 < n) find(args);
    }
    cp_async_commit();
    slot = (slot + 1) % Plan::SLOTS;
    return first;
  }
};

// What a group's blocks, from block `first` on, are multiplied with, as a lane needs it.
template <class T, u32 Rows> struct Activations {
  typedef MatvecPlan<T, Rows> Plan;
  // Codes of column g of each fragment; of a lane with blocks of its own all of them where the column is of such a block, else zeros.
  uint2 codes[Plan::OWN ? 4u : static_cast<u32>(Plan::FRAGMENTS)];
  // Scales, and sums of codes, of columns 2 t and 2 t + 1.
  float d[Plan::FRAGMENTS][2];
  i32 sums[Plan::FRAGMENTS][2];

  DEVICE void load(const MatrixArgs &args, u32 first, u32 g, u32 t) {
    const u32 last = args.n_blocks - 1, last_row = args.rows - 1;
    // Where the activations of a column are. Blocks behind the last one, and rows that there are not, get what is there: their
    // results are left out by the consumers.
    const auto at = [&](u32 column) {
      const u32 block = first + column / Plan::COLUMNS, row = column % Rows;
      return (row < last_row ? row : last_row) * args.n_blocks + (block < last ? block : last);
    };
    if constexpr (Plan::OWN) {
      const u32 block = g / Plan::COLUMNS;
      const uint4 *const words = reinterpret_cast<const uint4 *>(args.codes + static_cast<u64>(at(g)) * BLOCK);
      uint4 both[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
      if (block % 4 == t) {
        both[0] = words[0];
        both[1] = words[1];
      }
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        codes[2 * i] = make_uint2(both[i].x, both[i].y);
        codes[2 * i + 1] = make_uint2(both[i].z, both[i].w);
      }
    }
#pragma unroll
    for (u32 n = 0; n < Plan::FRAGMENTS; n++) {
      if constexpr (!Plan::OWN) {
        const i8 *const words = args.codes + static_cast<u64>(at(8 * n + g)) * BLOCK + 8 * t;
        codes[n] = *reinterpret_cast<const uint2 *>(words);
      }
#pragma unroll
      for (u32 c = 0; c < 2; c++) {
        const u32 i = at(8 * n + 2 * t + c);
        d[n][c] = args.scales[i];
        if constexpr (T::CORRECTED) sums[n][c] = reinterpret_cast<const i32 *>(args.sums)[i];
      }
    }
  }
};

// The sum of a half's codes, or of both halves', from a word of `sums`.
template <class T> DEVICE float codes_sum(i32 both, u32 half) {
  const i32 low = static_cast<i16>(both), high = both >> 16;
  return static_cast<float>(T::HALVES == 1 ? low + high : half == 0 ? low : high);
}

// The sums of a group's blocks: of each fragment, columns 2 t and 2 t + 1 of row 2 g, then of row 2 g + 1.
template <class T, u32 Rows>
DEVICE void make_sums(const u8 *blocks, const Activations<T, Rows> &x, u32 g, u32 t, u32 half_turn,
                      i32 (&sums)[MatvecPlan<T, Rows>::FRAGMENTS][4]) {
  typedef MatvecPlan<T, Rows> Plan;
  u32 b[Plan::FRAGMENTS][2];
#pragma unroll
  for (u32 n = 0; n < Plan::FRAGMENTS; n++) {
    T::quick_codes(x.codes[n], b[n]);
    if constexpr (T::HALVES == 2) T::quick_half((8 * n + g) / Rows % 2, b[n]);
  }
  // All blocks of a type of more words at once would take more registers than there are.
#pragma unroll (sizeof(typename T::Words) <= 8 || Plan::GROUP <= 4 ? Plan::GROUP : 4)
  for (u32 u = 0; u < Plan::GROUP; u++) {
    u32 a[4];
    T::quick(T::load(blocks + u * T::BLOCK_BYTES, g, t), t, half_turn, a);
#pragma unroll
    for (u32 n = 0; n < Plan::FRAGMENTS; n++) {
      i32 products[4];
      mma_sum(products, a, b[n]);
#pragma unroll
      for (u32 c = 0; c < 2; c++) {
        // The block's columns are `COLUMNS` from `COLUMNS * u` on.
        if (Plan::GROUP == 1 || u == 0 || (8 * n + 2 * t + c) / Plan::COLUMNS == u) {
          sums[n][c] = products[c];
          sums[n][2 + c] = products[2 + c];
        }
      }
    }
  }
}

// The same where lanes have blocks of their own.
template <class T, u32 Rows>
DEVICE void make_own_sums(const u8 *blocks, const Activations<T, Rows> &x, u32 g, u32 t, u32 half_turn,
                          i32 (&sums)[MatvecPlan<T, Rows>::FRAGMENTS][4]) {
  typedef MatvecPlan<T, Rows> Plan;
#pragma unroll
  for (u32 first = 0; first < Plan::GROUP; first += 4) {
    const typename T::Whole whole = T::load_whole(blocks + (first + t) * T::BLOCK_BYTES, g);
i32 products[4];
#pragma unroll
    for (u32 e = 0; e < 4; e++) {
      u32 a[4], b[2];
      T::quick_whole(whole, e, half_turn, a);
      T::quick_codes(x.codes[e], b);
      if (e == 0) mma_sum(products, a, b);
      else mma_m16n8k32_s8(products, a, b);
    }
#pragma unroll
    for (u32 c = 0; c < 2; c++) {
      // Of eight blocks, the columns of the other four have met these ones' weights.
      if (first == 0 || (2 * t + c) / Plan::COLUMNS / 4 == first / 4) {
        sums[0][c] = products[c];
        sums[0][2 + c] = products[2 + c];
      }
    }
  }
}

// Leaves a group's sums, and what each is to be scaled with.
template <class T, u32 Rows>
DEVICE void put_sums(const u8 *blocks, const Activations<T, Rows> &x, u32 g, u32 t,
                     const i32 (&sums)[MatvecPlan<T, Rows>::FRAGMENTS][4], u8 *results) {
  typedef MatvecPlan<T, Rows> Plan;
#pragma unroll
  for (u32 n = 0; n < Plan::FRAGMENTS; n++) {
#pragma unroll
    for (u32 c = 0; c < 2; c++) {
      const u32 column = 8 * n + 2 * t + c, half = T::HALVES == 1 ? 0 : column / Rows % 2;
      const u8 *const block = blocks + column / Plan::COLUMNS * T::BLOCK_BYTES;
      const u32 bytes = *reinterpret_cast<const u16 *>(block + 16 * half + 2 * g);
      float scales[2], pairs[4];
      T::scales(bytes, scales);
#pragma unroll
      for (u32 row = 0; row < 2; row++) {
        if constexpr (T::CORRECTED) {
          const float sum = __uint_as_float(sums[n][2 * row + c]);
          pairs[2 * row] = T::corrected(sum, bytes, row, codes_sum<T>(x.sums[n][c], half));
        } else {
          pairs[2 * row] = plain_sum<T>(sums[n][2 * row + c]);
        }
        pairs[2 * row + 1] = scales[row] * x.d[n][c];
      }
      *reinterpret_cast<float4 *>(results + column * COLUMN_BYTES + 16 * g) = make_float4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
  }
}

template <class T, u32 Rows>
DEVICE void produce(const MatrixArgs &args, u8 *results, u8 *ring, u32 items, u32 rounds, u32 warp) {
  typedef MatvecPlan<T, Rows> Plan;
  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  // In the last round only some have one.
  const u32 mine = (items + Plan::PRODUCERS - 1 - warp) / Plan::PRODUCERS;
  ring += warp * RING * T::BLOCK_BYTES;
  results += warp * Plan::RESULT_BYTES;
  Copies<T, Rows> ahead = {blockIdx.x, warp * Plan::ITEM, nullptr, shared_at(ring + 16 * lane), 0};
  if (mine > 0) ahead.find(args);
  // First blocks of the items that are on their way.
  u32 firsts[Plan::SLOTS - 1];
#pragma unroll
  for (u32 i = 0; i < Plan::SLOTS - 1; i++) firsts[i] = ahead.start(args, i, mine);
  for (u32 round = 0; round < mine; round++) {
    const u32 first = firsts[0];
    Activations<T, Rows> x;
    x.load(args, first, g, t);
    // Into the slot of the item before this one, which every lane has read.
    __syncwarp(FULL);
#pragma unroll
    for (u32 i = 0; i + 1 < Plan::SLOTS - 1; i++) firsts[i] = firsts[i + 1];
    firsts[Plan::SLOTS - 2] = ahead.start(args, round + Plan::SLOTS - 1, mine);
    cp_async_wait<Plan::SLOTS - 1>();
    __syncwarp(FULL);
    const u32 buffer = round % Plan::BUFFERS;
    const u8 *const blocks = ring + round % Plan::SLOTS * Plan::ITEM_BYTES;
    u8 *const to = results + buffer * Plan::PRODUCERS * Plan::RESULT_BYTES;
#pragma unroll
    for (u32 group = 0; group < Plan::GROUPS; group++) {
      const Activations<T, Rows> these = x;
      if (group + 1 < Plan::GROUPS) x.load(args, first + (group + 1) * Plan::GROUP, g, t);
      const u8 *const from = blocks + group * Plan::GROUP * T::BLOCK_BYTES;
      i32 sums[Plan::FRAGMENTS][4];
      if constexpr (Plan::OWN) make_own_sums<T, Rows>(from, these, g, t, args.half_turn, sums);
      else make_sums<T, Rows>(from, these, g, t, args.half_turn, sums);
      if (group == 0 && round >= Plan::BUFFERS) wait_empty(buffer);
      put_sums<T, Rows>(from, these, g, t, sums, to + group * Plan::GROUP * Plan::COLUMNS * COLUMN_BYTES);
    }
    set_full(buffer);
  }
  if (mine < rounds) {
    const u32 buffer = mine % Plan::BUFFERS;
    if (mine >= Plan::BUFFERS) wait_empty(buffer);
    set_full(buffer);
  }
}

// An output: what it is made of besides its chain.
struct Output {
  bool valid;
  float row_scale;
  float bias;
  float residual;
  float *to;
  bool has_bias;
  bool has_residual;

  // Of row `lane` of a tile and row `row` of the activations. Reads all early, since the chain takes its time.
  DEVICE static Output of(const MatrixArgs &args, u32 tile, u32 lane, u32 row) {
    Output out = {false, 0.0f, 0.0f, 0.0f, nullptr, false, false};
    if (tile >= args.n_tiles) return out;
    const TileAt at = tile_at(args, tile);
    const RowsAt rows = rows_at(at);
    if (lane >= rows.n || row >= args.rows) return out;
    const u32 column = rows.first + lane;
    const u64 i = static_cast<u64>(row) * at.part.out_stride + column;
    out.valid = true;
    out.row_scale = reinterpret_cast<const float *>(at.bytes)[lane];
    out.has_bias = at.part.bias != nullptr;
    out.has_residual = at.part.residual != nullptr;
    if (out.has_bias) out.bias = at.part.bias[column];
    if (out.has_residual) out.residual = at.part.residual[i];
    out.to = at.part.out + i;
    return out;
  }

  DEVICE void put(float acc) const {
    if (!valid) return;
    float y = acc * row_scale;
    if (has_bias) y = y + bias;
    if (has_residual) y = y + residual;
    *to = y;
  }
};

template <class T, u32 Rows> DEVICE void consume(const MatrixArgs &args, const u8 *results, u32 items, u32 rounds, u32 thread) {
  typedef MatvecPlan<T, Rows> Plan;
  constexpr u32 STEPS = 8, STEP_BYTES = Rows * COLUMN_BYTES;
  const u32 lane = thread % TILE_ROWS, row = thread / TILE_ROWS;
  results += (row < Rows ? row : Rows - 1) * COLUMN_BYTES + 8 * lane;
  u32 tile = blockIdx.x, item = 0;
  Output output = Output::of(args, tile, lane, row);
  float acc = 0.0f;
  for (u32 round = 0; round < rounds; round++) {
    const u32 buffer = round % Plan::BUFFERS;
    wait_full(buffer);
    const u8 *from = results + buffer * Plan::PRODUCERS * Plan::RESULT_BYTES;
    for (u32 w = 0; w < Plan::PRODUCERS && tile < args.n_tiles; w++, from += Plan::RESULT_BYTES) {
      const u32 left = args.n_blocks - item * Plan::ITEM, steps = (left < Plan::ITEM ? left : Plan::ITEM) * T::HALVES;
      const u8 *at = from;
      u32 done = 0;
      for (; done + STEPS <= steps; done += STEPS, at += STEPS * STEP_BYTES) {
        float2 pairs[STEPS];
#pragma unroll
        for (u32 i = 0; i < STEPS; i++) pairs[i] = *reinterpret_cast<const float2 *>(at + i * STEP_BYTES);
#pragma unroll
        for (u32 i = 0; i < STEPS; i++) acc = __fmaf_rn(pairs[i].x, pairs[i].y, acc);
      }
#pragma unroll 1
      for (; done < steps; done++, at += STEP_BYTES) {
        const float2 pair = *reinterpret_cast<const float2 *>(at);
        acc = __fmaf_rn(pair.x, pair.y, acc);
      }
      if (++item == items) {
        output.put(acc);
        acc = 0.0f;
        item = 0;
        tile += gridDim.x;
        output = Output::of(args, tile, lane, row);
      }
    }
    if (round + Plan::BUFFERS < rounds) set_empty(buffer);
  }
}

template <class T, u32 Rows> DEVICE void matvec_rows(const MatrixArgs &args, u8 *shared) {
  typedef MatvecPlan<T, Rows> Plan;
  // Of a tile, and of all tiles of this block of threads.
  const u32 items = (args.n_blocks + Plan::ITEM - 1) / Plan::ITEM;
  const u32 all_items = (args.n_tiles - blockIdx.x + gridDim.x - 1) / gridDim.x * items;
  const u32 rounds = (all_items + Plan::PRODUCERS - 1) / Plan::PRODUCERS, warp = threadIdx.x / 32;
  u8 *const ring = shared + Plan::BUFFERS * Plan::PRODUCERS * Plan::RESULT_BYTES;
  if (warp < Plan::PRODUCERS) {
    produce<T, Rows>(args, shared, ring, all_items, rounds, warp);
  } else {
    consume<T, Rows>(args, shared, items, rounds, threadIdx.x - 32 * Plan::PRODUCERS);
  }
}

template <class T> DEVICE void matvec(const MatrixArgs &args, u8 *shared) {
  if (args.rows == 1) {
    matvec_rows<T, 1>(args, shared);
  } else if (args.rows == 2) {
    matvec_rows<T, 2>(args, shared);
  } else if (args.rows <= 4) {
    matvec_rows<T, 4>(args, shared);
  } else {
    matvec_rows<T, 8>(args, shared);
  }
}

// The entry for a type.
#define MATVEC(name, T)                     \
  KERNEL_BOUNDS(name, MatrixArgs, 288, 3) { \
    SHARED(u8, shared);                     \
    matvec<T>(args, shared);                \
  }
