// What `docs/numerics.md` defines, as device functions. Each operation rounds as it is written there.
#pragma once
#include "base.h"

// Positions of a KV tile, and of a span.
#define KV_TILE 64u
#define KV_SPAN 512u

// How keys and values are stored (`kv_type_id`).
#define KV_F32 0u
#define KV_F16 1u
#define KV_Q8 2u

// e^x, as defined.
DEVICE float exp_defined(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float n = rintf(x * __uint_as_float(0x3fb8aa3bu));
  float r = __fmaf_rn(n, __uint_as_float(0xbf318000u), x);
  r = __fmaf_rn(n, __uint_as_float(0x395e8083u), r);
  float p = __uint_as_float(0x39506967u);
  p = __fmaf_rn(p, r, __uint_as_float(0x3ab743cfu));
  p = __fmaf_rn(p, r, __uint_as_float(0x3c088908u));
  p = __fmaf_rn(p, r, __uint_as_float(0x3d2aa9c1u));
  p = __fmaf_rn(p, r, __uint_as_float(0x3e2aaaaau));
  p = __fmaf_rn(p, r, 0.5f);
  const float y = __fmaf_rn(p, r * r, r) + 1.0f;
  return y * __uint_as_float(static_cast<u32>(__float2int_rn(n) + 127) << 23);
}

// The sum of the values of 16 lanes (0 to 15, or 16 to 31) in the fixed tree; every one of the 16 gets it. All lanes of `mask`
// call it. Either order of the two summands gives the same bits.
DEVICE float tree16(u32 mask, float lane) {
  lane = lane + __shfl_xor_sync(mask, lane, 8);
  lane = lane + __shfl_xor_sync(mask, lane, 4);
  lane = lane + __shfl_xor_sync(mask, lane, 2);
  return lane + __shfl_xor_sync(mask, lane, 1);
}

// The same of an array in one thread.
DEVICE float tree16(const float (&l)[16]) {
  return (((l[0] + l[8]) + (l[4] + l[12])) + ((l[2] + l[10]) + (l[6] + l[14]))) +
         (((l[1] + l[9]) + (l[5] + l[13])) + ((l[3] + l[11]) + (l[7] + l[15])));
}

// 1 / sqrt(sum / n + eps), of the sum of `n` squares.
DEVICE float norm_inverse(float sum, u32 n, float eps) {
  return __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(sum, __uint2float_rn(n)) + eps));
}

// Magnitudes compare as these bits do, NaN above all.
DEVICE u32 magnitude_bits(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// Scale of a block of codes and the factor that its numbers take to them, of the bits of the largest magnitude.
struct CodeScale {
  float d;
  float inverse;
};
DEVICE CodeScale code_scale(u32 amax_bits) {
  CodeScale scale = {0.0f, 0.0f};
  if (amax_bits >= (127u - 100u) << 23) {  // 2^-100
    const float amax = __uint_as_float(amax_bits);
    scale.d = __fdiv_rn(amax, 127.0f);
    scale.inverse = __fdiv_rn(127.0f, amax);
  }
  return scale;
}

// A number's code, -127..=127.
DEVICE i32 code_of(float x, float inverse) { return __float2int_rn(x * inverse); }

DEVICE float bf16_to_float(u16 bits) { return __uint_as_float(static_cast<u32>(bits) << 16); }

// A key or value as an `f16` cache holds it: beyond the limits, the limit.
DEVICE u16 kv_half(float x) {
  x = x > 65504.0f ? 65504.0f : x;
  x = x < -65504.0f ? -65504.0f : x;
  return float_to_half(x);
}

// A key's place in its part (elements), for the position within the tile and the channel; a value's is `pos * head_dim + c`.
DEVICE u32 key_index(u32 head_dim, u32 pos, u32 c) { return pos / 16 * 16 * head_dim + c * 16 + pos % 16; }

// Where the tile of the position `pos` of the sequence at `table` is, of a KV head: its key part, behind which the value part is.
DEVICE u8 *kv_tile(const PoolArgs &pool, u32 table, u32 pos, u32 kv_head) {
  const u64 page = pool.page_table[table + pos / KV_TILE];
  return pool.kv + page * pool.page_bytes + pool.layer_offset + 2ull * kv_head * pool.part_bytes;
}
