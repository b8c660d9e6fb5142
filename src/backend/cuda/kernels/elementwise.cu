// Between the matrices: norm, SwiGLU, quantisation, rotation and the KV cache's writes.
#include "base.h"
#include "numerics.h"

// Four neighbouring numbers of a row, zeros beyond `n`; 16 bytes at once where they are aligned.
DEVICE void load_4(const float *row, u32 k, u32 n, float x[4]) {
  const float *from = row + k;
  if (k + 4 <= n && reinterpret_cast<u64>(from) % 16 == 0) {
    const float4 v = *reinterpret_cast<const float4 *>(from);
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    return;
  }
#pragma unroll
  for (u32 i = 0; i < 4; i++) x[i] = k + i < n ? from[i] : 0.0f;
}

// Writes numbers `k` to `k + 3` of a row of activations (`k` a multiple of 4) in the forms that are wanted. A block's eight
// threads are neighbours in their warp, the first at a multiple of eight; all lanes of the warp call it.
DEVICE void put_4(const Codes &out, u32 row, u32 k, float x[4]) {
  const bool within = k < out.n_blocks * 32;
  const u64 block = static_cast<u64>(row) * out.n_blocks + k / 32;
  if (out.codes != nullptr) {
    u32 amax = magnitude_bits(x[0]);
#pragma unroll
    for (u32 i = 1; i < 4; i++) amax = max(amax, magnitude_bits(x[i]));
#pragma unroll
    for (u32 h = 1; h < 8; h *= 2) amax = max(amax, __shfl_xor_sync(FULL, amax, h));
    const CodeScale scale = code_scale(amax);
    u32 word = 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      const i32 code = code_of(x[i], scale.inverse);
      word |= (static_cast<u32>(code) & 255u) << 8 * i;
      if (out.round != 0) x[i] = __fmul_rn(__int2float_rn(code), scale.d);
    }
    // Of the half block: 16 codes of four threads.
    i32 sum = __dp4a(static_cast<i32>(word), 0x01010101, 0);
    sum += __shfl_xor_sync(FULL, sum, 1);
    sum += __shfl_xor_sync(FULL, sum, 2);
    const i32 other = __shfl_xor_sync(FULL, sum, 4);
    if (within) {
      const u32 w = k / 4 % 8;
      reinterpret_cast<u32 *>(out.codes)[block * 8 + w % 4 * 2 + w / 4] = word;
      if (w == 0) {
        out.scales[block] = scale.d;
        reinterpret_cast<u32 *>(out.sums)[block] = (static_cast<u32>(sum) & 0xffffu) | static_cast<u32>(other) << 16;
      }
    }
  }
  if (out.floats != nullptr && within) {
    float4 *to = reinterpret_cast<float4 *>(out.floats + (static_cast<u64>(row) * out.n_blocks * 32 + k));
    *to = make_float4(x[0], x[1], x[2], x[3]);
  }
}

// A piece of a row in shared memory: four numbers of each thread. The numbers of a lane of the sum (`k % 16`) stand one behind
// the other, with padding, so that it reads four at once and lanes meet different banks.
#define NORM_THREADS 1024u
#define LANE_WORDS (4 * NORM_THREADS / 16 + 4)
#define PIECE_WORDS (16 * LANE_WORDS)
// Units of 16 bytes that a sum has under way.
#define AHEAD 4u
// Pieces whose numbers and weights stay in registers.
#define KEPT 2u

DEVICE void put_piece(float *piece, u32 thread, const float x[4]) {
#pragma unroll
  for (u32 i = 0; i < 4; i++) piece[(4 * thread % 16 + i) * LANE_WORDS + thread / 4] = x[i];
}

DEVICE float add_square(float x, float sum) { return __fmaf_rn(x, x, sum); }

// Adds `n` squares in order; `x` is aligned to 16. Each step waits for the one before it, for 4 cycles: what comes from
// shared memory, which takes longer, is fetched 12 to 16 steps ahead.
DEVICE float add_squares(const float *x, u32 n, float sum) {
  const float4 *from = reinterpret_cast<const float4 *>(x);
  const u32 whole = n / 4;
  float4 now[AHEAD];
#pragma unroll
  for (u32 j = 0; j < AHEAD; j++) now[j] = j < whole ? from[j] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  u32 i = 0;
  for (; i + AHEAD <= whole; i += AHEAD) {
#pragma unroll
    for (u32 j = 0; j < AHEAD; j++) {
      const float4 v = now[j];
      if (i + j + AHEAD < whole) now[j] = from[i + j + AHEAD];
      sum = add_square(v.x, sum);
      sum = add_square(v.y, sum);
      sum = add_square(v.z, sum);
      sum = add_square(v.w, sum);
    }
  }
  for (i *= 4; i < n; i++) sum = add_square(x[i], sum);
  return sum;
}

// A block takes a row, in pieces of four numbers for each of its threads. The first warp sums the squares of one piece while
// the others put the next one beside it.
KERNEL_BOUNDS(chaski_norm_quantize, NormQuantizeArgs, NORM_THREADS, 1) {
  STATIC_SHARED(float, pieces, 2 * PIECE_WORDS);
  STATIC_SHARED(float, shared_inverse, 1);
  const u32 row = blockIdx.x, from = args.row_index != nullptr ? args.row_index[row] : row;
  const float *x = args.x + static_cast<u64>(from) * args.x_stride;
  const u32 thread = threadIdx.x, dim = args.dim, piece = 4 * blockDim.x;

  float kept[KEPT][4], weights[KEPT][4], sum = 0.0f;
#pragma unroll
  for (u32 p = 0; p < KEPT; p++) load_4(x, p * piece + 4 * thread, dim, kept[p]);
#pragma unroll
  for (u32 p = 0; p < KEPT; p++) load_4(args.weight, p * piece + 4 * thread, dim, weights[p]);

  const auto add = [&](u32 start, u32 turn, const float v[4]) {
    float *to = pieces + turn * PIECE_WORDS;
    put_piece(to, thread, v);
    // The other half is not written again before the first warp, which reads it, comes to the next barrier.
    __syncthreads();
    const u32 lane = thread % 16, n = min(piece, dim - start);
    if (thread < 32) sum = add_squares(to + lane * LANE_WORDS, (n + 15 - lane) / 16, sum);
  };
#pragma unroll
  for (u32 p = 0; p < KEPT; p++) {
    if (p * piece < dim) add(p * piece, p % 2, kept[p]);
  }
  for (u32 start = KEPT * piece, turn = KEPT % 2; start < dim; start += piece, turn ^= 1) {
    float v[4];
    load_4(x, start + 4 * thread, dim, v);
    add(start, turn, v);
  }
  if (thread < 32) {
    sum = tree16(FULL, sum);
    if (thread == 0) shared_inverse[0] = norm_inverse(sum, dim, args.eps);
  }
  __syncthreads();
  const float inverse = shared_inverse[0];

  const auto put = [&](u32 k, float v[4], const float weight[4]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) v[i] = k + i < dim ? (v[i] * inverse) * weight[i] : 0.0f;
    put_4(args.out, row, k, v);
  };
#pragma unroll
  for (u32 p = 0; p < KEPT; p++) {
    if (p * piece < args.out.n_blocks * 32) put(p * piece + 4 * thread, kept[p], weights[p]);
  }
  for (u32 start = KEPT * piece; start < args.out.n_blocks * 32; start += piece) {
    float v[4], weight[4];
    load_4(x, start + 4 * thread, dim, v);
    load_4(args.weight, start + 4 * thread, dim, weight);
    put(start + 4 * thread, v, weight);
  }
}

KERNEL_BOUNDS(chaski_quantize, QuantizeArgs, 256, 4) {
  const u32 row = blockIdx.y, k = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  float v[4];
  load_4(args.x + static_cast<u64>(row) * args.x_stride, k, args.n, v);
  put_4(args.out, row, k, v);
}

KERNEL_BOUNDS(chaski_swiglu, SwigluArgs, 256, 4) {
  const u32 row = blockIdx.y, k = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  const u64 offset = static_cast<u64>(row) * args.stride;
  float gate[4], up[4], v[4];
  load_4(args.gate + offset, k, args.n, gate);
  load_4(args.up + offset, k, args.n, up);
#pragma unroll
  for (u32 i = 0; i < 4; i++) v[i] = k + i < args.n ? __fdiv_rn(gate[i], 1.0f + exp_defined(-gate[i])) * up[i] : 0.0f;
  put_4(args.out, row, k, v);
}
