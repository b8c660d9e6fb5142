// What the attention kernels share: keys and values as floats, how their bytes come in, and how states merge.
//
// A sum that `docs/numerics.md` orders belongs to one thread: the score of a query and a position is one chain of `fma`
// over the channels, a channel of a state one chain over the positions of a tile. Threads share out queries, positions
// and channels, never the links of a chain.
#pragma once
#include "numerics.h"

// What a stored element is. `load` reads consecutive elements, aligned to all of them; where `SCALED`, they are still to
// be multiplied by the scale of their position.
struct KvF32 {
  static constexpr u32 BYTES = 4;
  static constexpr bool SCALED = false;

  DEVICE static void load(const u8 *from, float (&x)[2]) {
    const float2 v = *reinterpret_cast<const float2 *>(from);
    x[0] = v.x, x[1] = v.y;
  }
  DEVICE static void load(const u8 *from, float (&x)[4]) {
    const float4 v = *reinterpret_cast<const float4 *>(from);
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
  }
};

struct KvF16 {
  static constexpr u32 BYTES = 2;
  static constexpr bool SCALED = false;

  DEVICE static void pair(u32 word, float &low, float &high) {
    low = half_to_float(static_cast<u16>(word));
    high = half_to_float(static_cast<u16>(word >> 16));
  }
  DEVICE static void load(const u8 *from, float (&x)[2]) { pair(*reinterpret_cast<const u32 *>(from), x[0], x[1]); }
  DEVICE static void load(const u8 *from, float (&x)[4]) {
    const uint2 v = *reinterpret_cast<const uint2 *>(from);
    pair(v.x, x[0], x[1]);
    pair(v.y, x[2], x[3]);
  }
};

struct KvQ8 {
  static constexpr u32 BYTES = 1;
  static constexpr bool SCALED = true;

  // Byte `i` of `codes`, 128 added to each, as a float: the last bits of 2^23, which is then taken off. An integer
  // conversion has a quarter of the rate.
  DEVICE static float number(u32 codes, u32 i) {
    return __uint_as_float(prmt(codes, 0x4b000000u, 0x7440u | i)) - 8388736.0f;
  }
  DEVICE static void load(const u8 *from, float (&x)[2]) {
    const u32 codes = *reinterpret_cast<const u16 *>(from) ^ 0x8080u;
    x[0] = number(codes, 0), x[1] = number(codes, 1);
  }
  DEVICE static void load(const u8 *from, float (&x)[4]) {
    const u32 codes = *reinterpret_cast<const u32 *>(from) ^ 0x80808080u;
#pragma unroll
    for (u32 i = 0; i < 4; i++) x[i] = number(codes, i);
  }
};

// Scales of a Q8 part: behind its codes, one for each position.
DEVICE const float *kv_scales(const u8 *part, u32 head_dim) {
  return reinterpret_cast<const float *>(part + KV_TILE * head_dim);
}

// `N` floats, aligned to all of them or to 16 bytes.
template <u32 N> DEVICE void load_floats(const float *from, float (&x)[N]) {
  if (N == 1) {
    x[0] = *from;
  } else if (N == 2) {
    const float2 v = *reinterpret_cast<const float2 *>(from);
    x[0] = v.x, x[1 % N] = v.y;
  } else {
#pragma unroll
    for (u32 i = 0; i < N; i += 4) {
      const float4 v = *reinterpret_cast<const float4 *>(from + i);
      x[i] = v.x, x[(i + 1) % N] = v.y, x[(i + 2) % N] = v.z, x[(i + 3) % N] = v.w;
    }
  }
}
template <u32 N> DEVICE void store_floats(float *to, const float (&x)[N]) {
  if (N == 1) {
    *to = x[0];
  } else if (N == 2) {
    *reinterpret_cast<float2 *>(to) = make_float2(x[0], x[1 % N]);
  } else {
#pragma unroll
    for (u32 i = 0; i < N; i += 4)
      *reinterpret_cast<float4 *>(to + i) = make_float4(x[i], x[(i + 1) % N], x[(i + 2) % N], x[(i + 3) % N]);
  }
}

// A piece of a tile in shared memory: keys of all 64 positions for a few channels, or values of a few positions.
//
//   keys     [4 groups of 16 positions][CHANNELS][16]; channel `c` of group `g` stands at `c ^ g`, so that threads that
//            read the same channel of different groups meet different banks
//   values   [rows(head_dim)][head_dim]
template <class Kv, u32 STAGE> struct Piece {
  // Bytes of a channel of a group, and of a group; channels, a multiple of 4.
  static constexpr u32 CHANNEL = 16 * Kv::BYTES, GROUP = STAGE / 4;
  static constexpr u32 CHANNELS = GROUP / CHANNEL;

  DEVICE static u32 n_keys(u32 head_dim) { return (head_dim + CHANNELS - 1) / CHANNELS; }

  // Positions of a piece of values: a multiple of `LEAST`, so that they are whole units of 16 bytes for every even
  // `head_dim`, in no more than `STAGE`. Heads of 256 fit, but for f32 into a piece of 4096, where those of 128 do.
  static constexpr u32 LEAST = 8 / Kv::BYTES > STAGE / 1024 ? 8 / Kv::BYTES : STAGE / 1024;
  DEVICE static u32 rows(u32 head_dim) { return LEAST * (STAGE / (LEAST * head_dim * Kv::BYTES)); }

  // Where the keys of group `g`, positions `pos ..` within it, of channels `k` modulo 4 stand: add `c * CHANNEL` for a
  // channel `c + k` of the piece, `c` a multiple of 4.
  DEVICE static u32 key_at(u32 g, u32 pos, u32 k) { return g * GROUP + (k ^ g) * CHANNEL + pos * Kv::BYTES; }
};

// A thread's part, of `THREADS`, in copying the pieces of a tile: those of the keys, then those of the values of the
// positions `skipped ..`. Addresses go forward from piece to piece instead of being found anew.
template <class Kv, u32 STAGE, u32 THREADS> struct PieceCopy {
  typedef Piece<Kv, STAGE> P;
  // Units of 16 bytes of a group; groups from a thread's unit to its next; its units of keys, and of values.
  static constexpr u32 UNITS = P::GROUP / 16, STEP = THREADS / UNITS;
  static constexpr u32 COPIES = STEP < 4 ? 4 / STEP : 1, RUNS = STAGE < 16 * THREADS ? 1 : STAGE / (16 * THREADS);

  const u8 *keys;    // the thread's own, of the next piece
  const u8 *values;
  u32 left;          // bytes of keys of a group from the thread's own on, or 0
  u32 group_bytes;   // of the tile's keys
  u32 rows_bytes;    // of a piece of values
  u32 values_left;   // bytes of values
  u32 thread;

  DEVICE void begin(const u8 *tile, u32 part_bytes, u32 head_dim, u32 skipped) {
    const u32 group = thread / UNITS, at = thread % UNITS * 16;
    group_bytes = head_dim * P::CHANNEL;
    left = group < 4 && at < group_bytes ? group_bytes - at : 0;
    keys = tile + group * group_bytes + at;
    const u32 row_bytes = head_dim * Kv::BYTES;
    rows_bytes = P::rows(head_dim) * row_bytes;
    values = tile + part_bytes + skipped * row_bytes + thread * 16;
    values_left = (KV_TILE - skipped) * row_bytes;
  }

  DEVICE void copy_keys(u8 *to) {
    if (left > 0) {
      // Groups are chosen by bits of their own, so that a sum and an exclusive or are the same.
      const u32 group = thread / UNITS, own = group * P::GROUP + (thread % UNITS * 16 ^ group * P::CHANNEL);
#pragma unroll
      for (u32 i = 0; i < COPIES; i++)
        cp_async_16(to + i * STEP * P::GROUP + (own ^ i * STEP * P::CHANNEL), keys + i * STEP * group_bytes);
      keys += P::GROUP;
      left = left > P::GROUP ? left - P::GROUP : 0;
    }
  }

  DEVICE void copy_values(u8 *to) {
    const u32 bytes = rows_bytes < values_left ? rows_bytes : values_left;
#pragma unroll
    for (u32 i = 0; i < RUNS; i++) {
      const u32 at = (thread + i * THREADS) * 16;
      if (at < bytes) cp_async_16(to + at, values + i * THREADS * 16);
    }
    values += bytes;
    values_left -= bytes;
  }
};

// The start of the positions that a query at `pos` attends to.
DEVICE u32 attended_from(u32 pos, u32 window) { return window != 0 && pos + 1 > window ? pos + 1 - window : 0; }

// How the sums of a later state enter those of an earlier one: x = fma(later, b, earlier * a).
//
// An empty side needs no question at each sum. Sums of an earlier state that is empty are -0 (`EMPTY_SUM`), and its
// weights 1 and 1: fma(x, 1, -0 * 1) is x, the sign of a zero included. Sums of a later one that is empty are +0, and the
// weights 1 and -1: fma(+0, -1, x * 1) is x + -0, which is x.
struct MergeWeights {
  float a;
  float b;
};
#define EMPTY_SUM (-0.0f)
#define NO_SCORE __uint_as_float(0xff800000u)

DEVICE MergeWeights merge_weights(float m_earlier, float l_earlier, float m_later, float l_later, float &m) {
  MergeWeights w = {1.0f, 1.0f};
  if (l_later == 0.0f) {
    m = m_earlier;
    w.b = -1.0f;
  } else if (l_earlier == 0.0f) {
    m = m_later;
  } else {
    m = m_later > m_earlier ? m_later : m_earlier;
    w.a = exp_defined(m_earlier - m), w.b = exp_defined(m_later - m);
  }
  return w;
}
DEVICE float merged(float earlier, float later, MergeWeights w) { return __fmaf_rn(later, w.b, earlier * w.a); }
