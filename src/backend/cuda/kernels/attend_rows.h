// Many rows' attention, from their first position to their own: prefill.
//
// A block of threads takes up to 64 queries, rows times the query heads of a KV head, and walks the tiles that any of
// them attends to. Keys and values pass through a ring of four pieces in shared memory that all warps read. A *set* of
// LANES threads, half a warp or a whole one, has eight queries:
//
//   scores   a lane has 64 / LANES consecutive positions: chains of `fma` over the channels, 8 x 4 or 8 x 2 in registers
//   softmax  within the set, by exchange and by the set's part of shared memory, where the weights stay
//   values   a lane has pairs of channels, 8 x 2 PAIRS chains over the positions; merged into the span's state, which is
//            in registers as well
//
// At the end of a span its state enters the row's, which `out` holds meanwhile. Half a warp to a set reads less of shared
// memory for each `fma`; heads of more than 128 channels take a whole one, for the registers.
//
// Positions that a query does not attend to have a weight of -1, which is skipped; tiles where there are none take a
// loop without that question.
#pragma once
#include "attend.h"

#define ROWS_STAGES 4u
#define ROWS_SET 8u       // queries of a set
#define ROWS_QUERIES 64u  // of a block
#define ROWS_SCALES 3u    // tiles whose scales are there at once

template <class KvT, u32 LANES_, u32 PAIRS_> struct Rows {
  typedef KvT Kv;
  static constexpr u32 LANES = LANES_, PAIRS = PAIRS_;
  static constexpr u32 THREADS = ROWS_QUERIES / ROWS_SET * LANES;
  static constexpr u32 STAGE = LANES == 16 ? 4096 : 2048;
  typedef Piece<Kv, STAGE> P;
  // Positions of a lane.
  static constexpr u32 WIDE = KV_TILE / LANES;
  // Queries of a warp, and lanes of it that have the same query in between.
  static constexpr u32 OF_WARP = ROWS_SET * 32 / LANES, PARTS = 32 / OF_WARP;
  // Weights of a warp: position j is row `j % WIDE * LANES + j / WIDE`. Rows are so long that eight lanes that write
  // theirs meet all banks.
  static constexpr u32 PITCH = OF_WARP + 4;
};

// What the block knows of itself, in shared memory, in the order of `AttendRowsArgs::shape`.
template <class R> struct RowsShared {
  u8 *ring;        // [ROWS_STAGES][STAGE]
  float *queries;  // [head_dim][ROWS_QUERIES]
  float *weights;  // [warps][KV_TILE][PITCH]
  float *merges;   // [warps][2][OF_WARP]: m of each query's tile; a and b of a merge
  u32 *range;      // [2][ROWS_QUERIES]: the positions that each attends to, first and end
  float *scales;   // [ROWS_SCALES][2][KV_TILE]: of keys, of values

  DEVICE RowsShared(u8 *shared, u32 head_dim) {
    ring = shared;
    queries = reinterpret_cast<float *>(shared + ROWS_STAGES * R::STAGE);
    weights = queries + head_dim * ROWS_QUERIES;
    merges = weights + R::THREADS / 32 * KV_TILE * R::PITCH;
    range = reinterpret_cast<u32 *>(merges + R::THREADS / 32 * 2 * R::OF_WARP);
    scales = reinterpret_cast<float *>(range + 2 * ROWS_QUERIES);
  }
};

// The pieces of tile after tile: keys, then values.
template <class R> struct RowsStream {
  u8 *ring;
  float *scales;
  const u8 *next;  // the tile behind the one that is copied, looked up early
  u32 position;    // the first of the tile that is copied
  u32 end;         // tiles end before this
  u32 piece;       // of the tile, the next
  u32 n_keys;
  u32 n;
  u32 copied;      // pieces so far
  u32 taken;
  u32 tiles;       // so far
  PieceCopy<typename R::Kv, R::STAGE, R::THREADS> copier;

  DEVICE const u8 *find(const AttendRowsArgs &args, u32 table, u32 position_) const {
    return position_ < end ? kv_tile(args.pool, table, position_, blockIdx.y) : nullptr;
  }

  // Goes on to `next`.
  DEVICE void begin(const AttendRowsArgs &args, u32 table) {
    copier.begin(next, args.pool.part_bytes, args.head_dim, 0);
    if (R::Kv::SCALED && threadIdx.x < 32) {
      // 16 units of 16 bytes of each part; they come with the first piece.
      const u32 half = threadIdx.x / 16, i = threadIdx.x % 16 * 4;
      const u8 *part = next + half * args.pool.part_bytes;
      cp_async_16(scales + (tiles % ROWS_SCALES * 2 + half) * KV_TILE + i, kv_scales(part, args.head_dim) + i);
    }
    next = find(args, table, position + KV_TILE);
  }

  DEVICE void copy(const AttendRowsArgs &args, u32 table) {
    if (position < end) {
      u8 *to = ring + copied % ROWS_STAGES * R::STAGE;
      if (piece == 0) begin(args, table);
      if (piece < n_keys)
        copier.copy_keys(to);
      else
        copier.copy_values(to);
      copied++;
      if (++piece == n) piece = 0, position += KV_TILE, tiles++;
    }
    cp_async_commit();
  }

  // Waits for the next piece, and has another copied to where the one before it was.
  DEVICE const u8 *take(const AttendRowsArgs &args, u32 table) {
    cp_async_wait<ROWS_STAGES - 2>();
    __syncthreads();
    copy(args, table);
    return ring + taken++ % ROWS_STAGES * R::STAGE;
  }
};

// score[i][e]: of the set's query `i` and the lane's position `e`.
template <class R, u32 N>
DEVICE void add_row_scores(const u8 *piece, const u32 (&at)[4], u32 c, const float *queries, const float (&d)[R::WIDE],
                           float (&score)[ROWS_SET][R::WIDE]) {
#pragma unroll
  for (u32 k = 0; k < N; k++) {
    float key[R::WIDE], q[ROWS_SET];
    R::Kv::load(piece + at[k] + c * R::P::CHANNEL, key);
    load_floats(queries + (c + k) * ROWS_QUERIES, q);
#pragma unroll
    for (u32 e = 0; e < R::WIDE; e++) {
      if (R::Kv::SCALED) key[e] = key[e] * d[e];
#pragma unroll
      for (u32 i = 0; i < ROWS_SET; i++) score[i][e] = __fmaf_rn(q[i], key[e], score[i][e]);
    }
  }
}

// Scores to weights, in shared memory and m of each query beside them. `range`: of the set's first query; `first`: the
// tile's first position. Positions outside a query's range count only where `masked` says that there are some.
template <class R>
DEVICE void row_weights(float (&score)[ROWS_SET][R::WIDE], float scale, const u32 *range, u32 first, bool masked, float *weights,
                        float *ms) {
  const u32 column = threadIdx.x % R::LANES, pos = first + column * R::WIDE;
  u32 outside = 0;  // a bit for each score
  if (masked) {
#pragma unroll
    for (u32 i = 0; i < ROWS_SET; i++) {
      const u32 from = range[i], to = range[ROWS_QUERIES + i];
#pragma unroll
      for (u32 e = 0; e < R::WIDE; e++) outside |= pos + e < from || pos + e >= to ? 1u << (i * R::WIDE + e) : 0;
    }
  }
#pragma unroll
  for (u32 i = 0; i < ROWS_SET; i++) {
    float m = NO_SCORE;
#pragma unroll
    for (u32 e = 0; e < R::WIDE; e++) {
      score[i][e] = outside >> (i * R::WIDE + e) & 1 ? NO_SCORE : score[i][e] * scale;
      m = score[i][e] > m ? score[i][e] : m;
    }
#pragma unroll
    for (u32 h = R::LANES / 2; h > 0; h /= 2) {
      const float other = __shfl_xor_sync(FULL, m, h);
      m = other > m ? other : m;
    }
    m = m + 0.0f;
    if (column == 0) ms[i] = m;
#pragma unroll
    for (u32 e = 0; e < R::WIDE; e++) {
      const float p = exp_defined(score[i][e] - m);
      score[i][e] = outside >> (i * R::WIDE + e) & 1 ? -1.0f : p;
    }
  }
#pragma unroll
  for (u32 e = 0; e < R::WIDE; e++) {
    float p[ROWS_SET];
#pragma unroll
    for (u32 i = 0; i < ROWS_SET; i++) p[i] = score[i][e];
    store_floats(weights + (e * R::LANES + column) * R::PITCH, p);
  }
}

// The sum of a query's weights in the defined order: `PARTS` lanes have two halves, or quarters, of the 16 partial sums
// each, so that the tree's first step stays within a lane. `weights`: of the lane's query.
template <class R> DEVICE float row_sum(const float *weights) {
  const u32 OWN = 8 / R::PARTS, part = threadIdx.x % 32 / R::OF_WARP;
  float sums[OWN];
#pragma unroll
  for (u32 i = 0; i < OWN; i++) {
    float half[2];
#pragma unroll
    for (u32 k = 0; k < 2; k++) {
      half[k] = 0.0f;
#pragma unroll
      for (u32 g = 0; g < 4; g++) {
        const u32 j = part * OWN + i + 8 * k + 16 * g;
        const float p = weights[(j % R::WIDE * R::LANES + j / R::WIDE) * R::PITCH];
        half[k] = half[k] + (p < 0.0f ? 0.0f : p);
      }
    }
    sums[i] = half[0] + half[1];
    sums[i] = sums[i] + __shfl_xor_sync(FULL, sums[i], 16);
    if (R::PARTS == 4) sums[i] = sums[i] + __shfl_xor_sync(FULL, sums[i], 8);
  }
  if (OWN == 2) return sums[0] + sums[1];
  return (sums[0] + sums[2 % OWN]) + (sums[1] + sums[3 % OWN]);
}

// acc[i][..] of the set's query `i` and the lane's channels: position `j`, whose values are at `value`. `at`: the channels
// in bytes.
template <class R, bool MASKED>
DEVICE void add_value(const u8 *value, const float *weights, float d, const u32 (&at)[R::PAIRS], float (&acc)[ROWS_SET][2 * R::PAIRS]) {
  float p[ROWS_SET];
  load_floats(weights, p);
#pragma unroll
  for (u32 k = 0; k < R::PAIRS; k++) {
    float v[2];
    R::Kv::load(value + at[k], v);
    if (R::Kv::SCALED) v[0] = v[0] * d, v[1] = v[1] * d;
#pragma unroll
    for (u32 i = 0; i < ROWS_SET; i++)
#pragma unroll
      for (u32 e = 0; e < 2; e++) {
        const float sum = __fmaf_rn(p[i], v[e], acc[i][2 * k + e]);
        acc[i][2 * k + e] = MASKED && p[i] < 0.0f ? acc[i][2 * k + e] : sum;
      }
  }
}

// The same over the positions from .. to, multiples of `WIDE`, of a piece that begins with `from`.
template <class R, bool MASKED>
DEVICE void add_values(const u8 *value, u32 from, u32 to, u32 row_bytes, const float *weights, const float *scales,
                       const u32 (&at)[R::PAIRS], float (&acc)[ROWS_SET][2 * R::PAIRS]) {
#pragma unroll 1
  for (u32 j = from; j < to; j += R::WIDE) {
    const float *p = weights + j / R::WIDE * R::PITCH;
#pragma unroll MASKED ? 1 : R::WIDE
    for (u32 e = 0; e < R::WIDE; e++) {
      add_value<R, MASKED>(value, p + e * R::LANES * R::PITCH, R::Kv::SCALED ? scales[j + e] : 1.0f, at, acc);
      value += row_bytes;
    }
  }
}

// Where a query's result goes.
DEVICE float *row_output(const AttendRowsArgs &args, const RowBlock &rows, u32 query) {
  const u32 group = args.n_heads / args.pool.n_kv_heads;
  const u64 row = rows.first + query / group;
  return args.out + row * args.out_stride + (blockIdx.y * group + query % group) * args.head_dim;
}

// A row block and a KV head.
template <class R> DEVICE void attend_block(const AttendRowsArgs &args, u8 *memory) {
  typedef typename R::P P;
  const u32 head_dim = args.head_dim, kv_head = blockIdx.y, group = args.n_heads / args.pool.n_kv_heads;
  // The last rows attend to the most and begin first.
  const RowBlock rows = args.row_blocks[gridDim.x - 1 - blockIdx.x];
  const u32 n = rows.n * group;
  const RowsShared<R> shared(memory, head_dim);
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, set = lane / R::LANES, column = lane % R::LANES;
  const u32 query = warp * R::OF_WARP + set * ROWS_SET;  // the set's first

  // Rows of one sequence, rising: the first attends from the first position, the last to the last.
  const QueryRow first_row = args.pool.query_rows[rows.first];
  const u32 table = first_row.table;
  const u32 begin = attended_from(first_row.pos, args.window) / KV_TILE * KV_TILE;
  const u32 end = args.pool.query_rows[rows.first + rows.n - 1].pos + 1;

  RowsStream<R> stream;
  stream.ring = shared.ring, stream.scales = shared.scales;
  stream.position = begin, stream.end = end;
  stream.piece = stream.copied = stream.taken = stream.tiles = 0;
  stream.n_keys = P::n_keys(head_dim);
  stream.n = stream.n_keys + (KV_TILE + P::rows(head_dim) - 1) / P::rows(head_dim);
  stream.next = stream.find(args, table, begin);
  stream.copier.thread = threadIdx.x;
  for (u32 s = 0; s < ROWS_STAGES - 1; s++) stream.copy(args, table);

  // Queries beyond the last attend to everything, so that they mask nothing, and are not written.
  if (threadIdx.x < ROWS_QUERIES) {
    u32 from = 0, to = 0xffffffffu;
    if (threadIdx.x < n) {
      const u32 pos = args.pool.query_rows[rows.first + threadIdx.x / group].pos;
      from = attended_from(pos, args.window), to = pos + 1;
    }
    shared.range[threadIdx.x] = from;
    shared.range[ROWS_QUERIES + threadIdx.x] = to;
  }
  {
    const u32 i = threadIdx.x % ROWS_QUERIES;
    const u64 row = rows.first + i / group;
    const float *q = args.q + row * args.q_stride + (kv_head * group + i % group) * head_dim;
    for (u32 c = threadIdx.x / ROWS_QUERIES * 2; c < head_dim; c += R::THREADS / ROWS_QUERIES * 2) {
      const float2 x = i < n ? *reinterpret_cast<const float2 *>(q + c) : make_float2(0.0f, 0.0f);
      shared.queries[c * ROWS_QUERIES + i] = x.x;
      shared.queries[(c + 1) * ROWS_QUERIES + i] = x.y;
    }
  }
  __syncthreads();

  // What masks the warp's queries: the latest start and the earliest end.
  u32 latest = 0, earliest = 0xffffffffu;
  for (u32 i = 0; i < R::OF_WARP; i++) {
    const u32 from = shared.range[warp * R::OF_WARP + i], to = shared.range[ROWS_QUERIES + warp * R::OF_WARP + i];
    latest = from > latest ? from : latest;
    earliest = to < earliest ? to : earliest;
  }

  u32 at[4], channel[R::PAIRS];
#pragma unroll
  for (u32 k = 0; k < 4; k++) at[k] = P::key_at(column * R::WIDE / 16, column * R::WIDE % 16, k);
#pragma unroll
  for (u32 k = 0; k < R::PAIRS; k++) {
    const u32 c = 2 * column + 2 * R::LANES * k;
    channel[k] = (c < head_dim ? c : 0) * R::Kv::BYTES;
  }
  float *const weights = shared.weights + warp * KV_TILE * R::PITCH;
  float *const merges = shared.merges + warp * 2 * R::OF_WARP;
  const float *const of_set = weights + set * ROWS_SET;
  const u32 own = lane % R::OF_WARP;  // the query whose m and l the lane keeps
  // Of the lane's own query: the span's, and all spans' before.
  float m_span = 0.0f, l_span = 0.0f, m_total = 0.0f, l_total = 0.0f;
  float state[ROWS_SET][2 * R::PAIRS];
#pragma unroll
  for (u32 i = 0; i < ROWS_SET; i++)
#pragma unroll
    for (u32 k = 0; k < 2 * R::PAIRS; k++) state[i][k] = EMPTY_SUM;

  for (u32 first = begin, tile = 0; first < end; first += KV_TILE, tile++) {
    const bool masked = latest > first || earliest < first + KV_TILE;
    const float *scales = shared.scales + tile % ROWS_SCALES * 2 * KV_TILE;
    {
      float score[ROWS_SET][R::WIDE] = {}, d[R::WIDE];
      for (u32 s = 0; s < stream.n_keys; s++) {
        const u8 *piece = stream.take(args, table);
        if (R::Kv::SCALED && s == 0) load_floats(scales + column * R::WIDE, d);
        const float *queries = shared.queries + s * P::CHANNELS * ROWS_QUERIES + query;
        const u32 left = head_dim - s * P::CHANNELS, most = left < P::CHANNELS ? left : P::CHANNELS;
        u32 c = 0;
#pragma unroll 1
        for (; c + 4 <= most; c += 4) add_row_scores<R, 4>(piece, at, c, queries, d, score);
        if (c < most) add_row_scores<R, 2>(piece, at, c, queries, d, score);
      }
      float *const to = weights + set * ROWS_SET, *const ms = merges + set * ROWS_SET;
      row_weights<R>(score, args.scale, shared.range + query, first, masked, to, ms);
    }
    __syncwarp(FULL);

    // The lane's own query: its weights' sum, and how the tile enters the span.
    {
      const float l = row_sum<R>(weights + own);
      float m;
      const MergeWeights w = merge_weights(m_span, l_span, merges[own], l, m);
      m_span = m;
      l_span = merged(l_span, l, w);
      __syncwarp(FULL);
      if (lane < R::OF_WARP) {
        merges[own] = w.a;
        merges[R::OF_WARP + own] = w.b;
      }
    }

    float acc[ROWS_SET][2 * R::PAIRS] = {};
    const u32 most = P::rows(head_dim), row_bytes = head_dim * R::Kv::BYTES;
    for (u32 row = 0; row < KV_TILE; row += most) {
      const u8 *piece = stream.take(args, table);
      const u32 to = row + most < KV_TILE ? row + most : KV_TILE;
      if (masked)
        add_values<R, true>(piece, row, to, row_bytes, of_set, scales + KV_TILE, channel, acc);
      else
        add_values<R, false>(piece, row, to, row_bytes, of_set, scales + KV_TILE, channel, acc);
    }
#pragma unroll
    for (u32 i = 0; i < ROWS_SET; i++) {
      const MergeWeights w = {merges[set * ROWS_SET + i], merges[R::OF_WARP + set * ROWS_SET + i]};
#pragma unroll
      for (u32 k = 0; k < 2 * R::PAIRS; k++) state[i][k] = merged(state[i][k], acc[i][k], w);
    }
    __syncwarp(FULL);

    if (first + KV_TILE < end && (first + KV_TILE) % KV_SPAN != 0) continue;
    // The span's state enters the row's.
    bool empty;
    {
      float m;
      const MergeWeights w = merge_weights(m_total, l_total, m_span, l_span, m);
      m_total = m;
      empty = l_total == 0.0f;
      l_total = merged(l_total, l_span, w);
      l_span = 0.0f;
      if (lane < R::OF_WARP) {
        merges[own] = w.a;
        merges[R::OF_WARP + own] = w.b;
      }
    }
    __syncwarp(FULL);
    const u32 empties = __ballot_sync(FULL, empty);
#pragma unroll
    for (u32 i = 0; i < ROWS_SET; i++) {
      const MergeWeights w = {merges[set * ROWS_SET + i], merges[R::OF_WARP + set * ROWS_SET + i]};
      if (query + i < n) {
        float *const out = row_output(args, rows, query + i) + 2 * column;
        const bool first_span = empties >> (set * ROWS_SET + i) & 1;
#pragma unroll
        for (u32 k = 0; k < R::PAIRS; k++) {
          if (2 * column + 2 * R::LANES * k >= head_dim) continue;
          float x[2] = {EMPTY_SUM, EMPTY_SUM};
          if (!first_span) load_floats(out + 2 * R::LANES * k, x);
          x[0] = merged(x[0], state[i][2 * k], w);
          x[1] = merged(x[1], state[i][2 * k + 1], w);
          store_floats(out + 2 * R::LANES * k, x);
        }
      }
#pragma unroll
      for (u32 k = 0; k < 2 * R::PAIRS; k++) state[i][k] = EMPTY_SUM;
    }
    __syncwarp(FULL);
  }

  // What the thread wrote itself, divided: not in registers, since the code of 64 divisions would be most of the kernel.
#pragma unroll 1
  for (u32 i = 0; i < ROWS_SET; i++) {
    const float l = __shfl_sync(FULL, l_total, set * ROWS_SET + i);
    if (query + i >= n) continue;
    float *const out = row_output(args, rows, query + i);
#pragma unroll 1
    for (u32 c = 2 * column; c < head_dim; c += 2 * R::LANES) {
      out[c] = __fdiv_rn(out[c], l);
      out[c + 1] = __fdiv_rn(out[c + 1], l);
    }
  }
}

template <class Kv> DEVICE void attend_rows(const AttendRowsArgs &args, u8 *memory) {
  if (args.head_dim <= 64)
    attend_block<Rows<Kv, 16, 2>>(args, memory);
  else if (args.head_dim <= 128)
    attend_block<Rows<Kv, 16, 4>>(args, memory);
  else
    attend_block<Rows<Kv, 32, 4>>(args, memory);
}
