// A few rows' attention within spans of 512 positions: decode.
//
// A block of threads takes a slot (a row and a span) and 1, 4 or 8 query heads of a KV head, a warp one of the span's eight
// tiles. The warp streams the tile's keys and then its values through a ring of four pieces in shared memory, so that
// 48 KiB of a block are on their way at any time, and every byte is read once for up to eight heads:
//
//   scores   a lane has two positions and every head; two chains of `fma` over the channels for each head
//   softmax  the warp's lanes exchange what they have; the weights go to shared memory
//   values   a lane has pairs of channels and every head; a chain over the positions for each
//
// What the warps found lies then where their rings were, and the block merges it in the order of the tiles.
#pragma once
#include "attend.h"

// Bytes of a piece and pieces of a ring.
#define SLOT_STAGE 2048u
#define SLOT_STAGES 4u
#define SPAN_TILES (KV_SPAN / KV_TILE)
// Most query heads that go through a span together.
#define SLOT_HEADS 8u

// What a block works on.
struct SpanWork {
  u32 first;   // position
  u32 start;   // positions start .. end are attended to
  u32 end;
  u32 table;
  u32 kv_head;
};

// Shared memory, in the order of `AttendArgs::shape`.
struct AttendShared {
  u8 *rings;       // [SPAN_TILES][SLOT_STAGES][SLOT_STAGE]; then f32 [SPAN_TILES][heads][head_dim] of states
  float *merges;   // [SPAN_TILES][SLOT_HEADS] of m, l; then of a, b
  float *sums;     // [SPAN_TILES + 1][SLOT_HEADS]: l of each, m of all
  float *scales;   // [SPAN_TILES][KV_TILE] of a Q8 cache's values
  float *queries;  // [head_dim][heads]
  float *weights;  // [SPAN_TILES][KV_TILE][heads]: p of each position

  DEVICE AttendShared(u8 *shared, u32 head_dim, u32 heads) {
    rings = shared;
    merges = reinterpret_cast<float *>(shared + SPAN_TILES * SLOT_STAGES * SLOT_STAGE);
    sums = merges + 2 * SPAN_TILES * SLOT_HEADS;
    scales = sums + (SPAN_TILES + 1) * SLOT_HEADS;
    queries = scales + SPAN_TILES * KV_TILE;
    weights = queries + head_dim * heads;
  }
};

// The pieces of a warp's tile: those of the keys, then those of the values that are attended to.
template <class Kv> struct TileStream {
  u8 *ring;
  u32 n_keys;   // pieces of keys
  u32 n;        // of both
  u32 copied;   // so far
  u32 skipped;  // positions in front of the first piece of values
  PieceCopy<Kv, SLOT_STAGE, 32> copier;

  // Starts copying the next piece, if there is one.
  DEVICE void copy() {
    u8 *to = ring + copied % SLOT_STAGES * SLOT_STAGE;
    if (copied < n_keys)
      copier.copy_keys(to);
    else if (copied < n)
      copier.copy_values(to);
    cp_async_commit();
    copied++;
  }

  // Waits for piece `s`, and has the next copied to where the one before it was.
  DEVICE const u8 *take(u32 s) {
    cp_async_wait<SLOT_STAGES - 2>();
    __syncwarp(FULL);
    copy();
    return ring + s % SLOT_STAGES * SLOT_STAGE;
  }
};

// score[h][e]: of head `h` and the lane's position `e`.
template <class Kv, u32 HEADS, u32 N>
DEVICE void add_scores(const u8 *piece, const u32 (&at)[4], u32 c, const float *queries, const float (&d)[2],
                       float (&score)[HEADS][2]) {
#pragma unroll
  for (u32 k = 0; k < N; k++) {
    float key[2], q[HEADS];
    Kv::load(piece + at[k] + c * Piece<Kv, SLOT_STAGE>::CHANNEL, key);
    load_floats(queries + (c + k) * HEADS, q);
    if (Kv::SCALED) key[0] = key[0] * d[0], key[1] = key[1] * d[1];
#pragma unroll
    for (u32 h = 0; h < HEADS; h++) {
      score[h][0] = __fmaf_rn(q[h], key[0], score[h][0]);
      score[h][1] = __fmaf_rn(q[h], key[1], score[h][1]);
    }
  }
}

// Scores to weights of the positions lo .. hi of the tile; m and l of the head. The lane's positions are `pos` and
// `pos + 1`.
DEVICE void softmax(float (&score)[2], u32 pos, u32 lo, u32 hi, float scale, float &m, float &l) {
  const bool in[2] = {pos >= lo && pos < hi, pos + 1 >= lo && pos + 1 < hi};
  m = NO_SCORE;
#pragma unroll
  for (u32 e = 0; e < 2; e++) {
    score[e] = score[e] * scale;
    m = in[e] && score[e] > m ? score[e] : m;
  }
#pragma unroll
  for (u32 h = 16; h > 0; h /= 2) {
    const float other = __shfl_xor_sync(FULL, m, h);
    m = other > m ? other : m;
  }
  m = m + 0.0f;
  const u32 lane = threadIdx.x % 32;
  float sums[2];
#pragma unroll
  for (u32 e = 0; e < 2; e++) {
    // Weights are not negative, so that a zero for a position outside leaves a sum as it is.
    score[e] = in[e] ? exp_defined(score[e] - m) : 0.0f;
    sums[e] = 0.0f;
    // Lane j mod 16 of the definition: the same pair of each group of 16 positions, which are eight lanes.
#pragma unroll
    for (u32 g = 0; g < 4; g++) sums[e] = sums[e] + __shfl_sync(FULL, score[e], lane % 8 + 8 * g);
#pragma unroll
    for (u32 h = 4; h > 0; h /= 2) sums[e] = sums[e] + __shfl_xor_sync(FULL, sums[e], h);
  }
  l = sums[0] + sums[1];
}

// A warp's tile, positions lo .. hi, of `n` heads: the state goes to the ring's place, m to `merges`, l to `sums`.
template <class Kv, u32 HEADS, u32 PAIRS>
DEVICE void attend_tile(const AttendArgs &args, const AttendShared &shared, TileStream<Kv> &stream, const u8 *tile, u32 lo, u32 hi,
                        u32 n) {
  typedef Piece<Kv, SLOT_STAGE> P;
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, head_dim = args.head_dim;
  const u32 pos = 2 * lane;  // 16 * (lane / 8) + 2 * (lane % 8)
  float score[HEADS][2] = {}, d[2] = {1.0f, 1.0f};
  float *const scales = shared.scales + warp * KV_TILE;
  if (Kv::SCALED) {
    load_floats(kv_scales(tile, head_dim) + pos, d);
    float of_values[2];
    load_floats(kv_scales(tile + args.pool.part_bytes, head_dim) + pos, of_values);
    store_floats(scales + pos, of_values);
  }
  u32 at[4];
#pragma unroll
  for (u32 k = 0; k < 4; k++) at[k] = P::key_at(lane / 8, 2 * (lane % 8), k);
  u32 s = 0;
  for (; s < stream.n_keys; s++) {
    const u8 *piece = stream.take(s);
    const float *queries = shared.queries + s * P::CHANNELS * HEADS;
    const u32 left = head_dim - s * P::CHANNELS, n = left < P::CHANNELS ? left : P::CHANNELS;
    u32 c = 0;
#pragma unroll 1
    for (; c + 4 <= n; c += 4) add_scores<Kv, HEADS, 4>(piece, at, c, queries, d, score);
    if (c < n) add_scores<Kv, HEADS, 2>(piece, at, c, queries, d, score);
  }

  // By way of shared memory, head by head, so that there is one softmax in the code instead of `HEADS`.
  float *const weights = shared.weights + warp * KV_TILE * HEADS;
#pragma unroll
  for (u32 h = 0; h < HEADS; h++) store_floats(weights + h * KV_TILE + pos, score[h]);
#pragma unroll 1
  for (u32 h = 0; h < n; h++) {
    float p[2], m, l;
    load_floats(weights + h * KV_TILE + pos, p);
    softmax(p, pos, lo, hi, args.scale, m, l);
    store_floats(weights + h * KV_TILE + pos, p);
    if (lane == 0) {
      shared.merges[(warp * SLOT_HEADS + h) * 2] = m;
      shared.sums[warp * SLOT_HEADS + h] = l;
    }
  }
  float p[2][HEADS];
#pragma unroll
  for (u32 h = 0; h < HEADS; h++) {
    float of_head[2];
    load_floats(weights + h * KV_TILE + pos, of_head);
    p[0][h] = of_head[0], p[1][h] = of_head[1];
  }
  __syncwarp(FULL);
  store_floats(weights + pos * HEADS, p[0]);
  store_floats(weights + (pos + 1) * HEADS, p[1]);

  // Lanes behind the last channel do again what the first do, and keep nothing.
  u32 channel[PAIRS];
#pragma unroll
  for (u32 i = 0; i < PAIRS; i++) {
    const u32 c = 2 * lane + 64 * i;
    channel[i] = (c < head_dim ? c : 0) * Kv::BYTES;
  }
  float acc[HEADS][2 * PAIRS] = {};
  const u32 rows = P::rows(head_dim);
  for (u32 row = stream.skipped; s < stream.n; s++, row += rows) {
    const u8 *piece = stream.take(s);
    const u32 from = row < lo ? lo : row, to = row + rows < hi ? row + rows : hi;
#pragma unroll 2
    for (u32 j = from; j < to; j++) {
      const u8 *value = piece + (j - row) * head_dim * Kv::BYTES;
      float weight[HEADS];
      load_floats(weights + j * HEADS, weight);
#pragma unroll
      for (u32 i = 0; i < PAIRS; i++) {
        float v[2];
        Kv::load(value + channel[i], v);
        if (Kv::SCALED) v[0] = v[0] * scales[j], v[1] = v[1] * scales[j];
#pragma unroll
        for (u32 h = 0; h < HEADS; h++) {
          acc[h][2 * i] = __fmaf_rn(weight[h], v[0], acc[h][2 * i]);
          acc[h][2 * i + 1] = __fmaf_rn(weight[h], v[1], acc[h][2 * i + 1]);
        }
      }
    }
  }
  __syncwarp(FULL);
  float *const state = reinterpret_cast<float *>(stream.ring);
#pragma unroll
  for (u32 h = 0; h < HEADS; h++)
#pragma unroll
    for (u32 i = 0; i < PAIRS; i++) {
      const u32 c = 2 * lane + 64 * i;
      if (c < head_dim) *reinterpret_cast<float2 *>(state + h * head_dim + c) = make_float2(acc[h][2 * i], acc[h][2 * i + 1]);
    }
}

// The same for any `head_dim`.
template <class Kv, u32 HEADS>
DEVICE void attend_heads_of(const AttendArgs &args, const AttendShared &shared, TileStream<Kv> &stream, const u8 *tile, u32 lo, u32 hi,
                        u32 n) {
  if (args.head_dim > 128)
    attend_tile<Kv, HEADS, 4>(args, shared, stream, tile, lo, hi, n);
  else if (args.head_dim > 64)
    attend_tile<Kv, HEADS, 2>(args, shared, stream, tile, lo, hi, n);
  else
    attend_tile<Kv, HEADS, 1>(args, shared, stream, tile, lo, hi, n);
}

// The tiles' states, from `first` to before `end`, merged in order; `n` heads go to `states`.
DEVICE void merge_tiles(const AttendShared &shared, u32 head_dim, u32 first, u32 end, u32 n, float *states) {
  // m of the tiles up to one is their maximum, in whatever order it is found; so all weights are found at once.
  const u32 tile = threadIdx.x / SLOT_HEADS, head = threadIdx.x % SLOT_HEADS;
  const bool mine = tile >= first && tile < end && head < n;
  float m = NO_SCORE, m_before = NO_SCORE, m_tile = NO_SCORE;
  if (mine) {
    for (u32 t = first; t <= tile; t++) {
      m_before = m;
      m_tile = shared.merges[(t * SLOT_HEADS + head) * 2];
      m = m_tile > m ? m_tile : m;
    }
    if (tile + 1 == end) shared.sums[SPAN_TILES * SLOT_HEADS + head] = m;
  }
  __syncthreads();
  if (mine) {
    shared.merges[(tile * SLOT_HEADS + head) * 2] = exp_defined(m_before - m);
    shared.merges[(tile * SLOT_HEADS + head) * 2 + 1] = exp_defined(m_tile - m);
  }
  __syncthreads();
  const u32 len = head_dim + 2;
  for (u32 i = threadIdx.x; i < n * len; i += blockDim.x) {
    const u32 h = i / len, c = i % len;
    float x = 0.0f;
    if (c == head_dim) {
      x = first < end ? shared.sums[SPAN_TILES * SLOT_HEADS + h] : NO_SCORE;
    } else {
      const bool sum = c > head_dim;
      const float *from = sum ? shared.sums + h : reinterpret_cast<float *>(shared.rings) + h * head_dim + c;
      const u32 step = sum ? SLOT_HEADS : SLOT_STAGES * SLOT_STAGE / 4;
      for (u32 t = first; t < end; t++) {
        const float *w = shared.merges + (t * SLOT_HEADS + h) * 2;
        const float later = from[t * step];
        x = t == first ? later : __fmaf_rn(later, w[1], x * w[0]);
      }
    }
    states[i] = x;
  }
}

// `n` query heads of the slot, at most `heads`, from `q` on; their states go to `states`.
template <class Kv>
DEVICE void attend_heads(const AttendArgs &args, const SpanWork &work, const float *q, u32 heads, u32 n, float *states, u8 *memory) {
  const u32 warp = threadIdx.x / 32, head_dim = args.head_dim;
  const AttendShared shared(memory, head_dim, heads);
  const u32 first = work.first + warp * KV_TILE;
  const u32 lo = work.start > first ? work.start - first : 0, left = work.end > first ? work.end - first : 0;
  const u32 hi = left < KV_TILE ? left : KV_TILE;
  TileStream<Kv> stream;
  const u8 *tile = nullptr;
  if (lo < hi) {
    const u32 rows = Piece<Kv, SLOT_STAGE>::rows(head_dim);
    tile = kv_tile(args.pool, work.table, first, work.kv_head);
    stream.ring = shared.rings + warp * SLOT_STAGES * SLOT_STAGE;
    stream.n_keys = Piece<Kv, SLOT_STAGE>::n_keys(head_dim);
    stream.skipped = lo / rows * rows;
    stream.n = stream.n_keys + (hi - stream.skipped + rows - 1) / rows;
    stream.copied = 0;
    stream.copier.thread = threadIdx.x % 32;
    stream.copier.begin(tile, args.pool.part_bytes, head_dim, stream.skipped);
#pragma unroll 1
    for (u32 s = 0; s < SLOT_STAGES - 1; s++) stream.copy();
  }
  for (u32 i = threadIdx.x; i < heads * head_dim; i += blockDim.x) {
    const u32 h = i / head_dim, c = i % head_dim;
    shared.queries[c * heads + h] = h < n ? q[i] : 0.0f;
  }
  __syncthreads();
  if (lo < hi) {
    if (heads == 1)
      attend_heads_of<Kv, 1>(args, shared, stream, tile, lo, hi, n);
    else if (heads == 4)
      attend_heads_of<Kv, 4>(args, shared, stream, tile, lo, hi, n);
    else if (head_dim > 64)
      attend_tile<Kv, 8, 2>(args, shared, stream, tile, lo, hi, n);
    else
      attend_tile<Kv, 8, 1>(args, shared, stream, tile, lo, hi, n);
  }
  __syncthreads();
  const u32 from = work.start > work.first ? work.start - work.first : 0;
  const u32 to = work.end > work.first ? work.end - work.first : 0;
  const u32 tiles = (to + KV_TILE - 1) / KV_TILE;
  merge_tiles(shared, head_dim, from / KV_TILE, tiles < SPAN_TILES ? tiles : SPAN_TILES, n, states);
}

template <class Kv> DEVICE void attend(const AttendArgs &args, u8 *memory) {
  if (blockIdx.x >= *args.n_slots) return;
  const Slot slot = args.slots[blockIdx.x];
  const QueryRow row = args.pool.query_rows[slot.row];
  SpanWork work;
  work.first = slot.span * KV_SPAN;
  work.start = attended_from(row.pos, args.window);
  work.end = row.pos + 1;
  work.table = row.table;
  const u32 head_dim = args.head_dim, heads = args.heads, group = args.n_heads / args.pool.n_kv_heads;
  const u32 passes = (group + heads - 1) / heads, done = blockIdx.y % passes * heads;
  work.kv_head = blockIdx.y / passes;
  const u32 n = group - done < heads ? group - done : heads, head = work.kv_head * group + done;
  const float *q = args.q + static_cast<u64>(slot.row) * args.q_stride + head * head_dim;
  float *states = args.states + (static_cast<u64>(blockIdx.x) * args.n_heads + head) * (head_dim + 2);
  attend_heads<Kv>(args, work, q, heads, n, states, memory);
}
