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

// The numbers of a row that are summed while the next ones are fetched.
#define PIECE 2048u
#define NORM_THREADS 256u
#define PER_THREAD (PIECE / NORM_THREADS)

// The squares of `n` numbers in 16 lanes: element `i` to lane `i % 16`, in order. Of 32 lanes, the lower 16 have a meaning.
DEVICE float add_squares(const float *x, u32 n, u32 lane, float sum) {
  u32 i = lane % 16;
  // Eight loads before the eight steps that must wait for one another.
  for (; i + 7 * 16 < n; i += 8 * 16) {
    float v[8];
#pragma unroll
    for (u32 j = 0; j < 8; j++) v[j] = x[i + 16 * j];
#pragma unroll
    for (u32 j = 0; j < 8; j++) sum = __fmaf_rn(v[j], v[j], sum);
  }
  for (; i < n; i += 16) sum = __fmaf_rn(x[i], x[i], sum);
  return sum;
}

KERNEL_BOUNDS(chaski_norm_quantize, NormQuantizeArgs, 256, 2) {
  STATIC_SHARED(float, pieces, 2 * PIECE);
  STATIC_SHARED(float, shared_inverse, 1);
  const u32 row = blockIdx.x, from = args.row_index != nullptr ? args.row_index[row] : row;
  const float *x = args.x + static_cast<u64>(from) * args.x_stride;
  const u32 thread = threadIdx.x, dim = args.dim;

  float next[PER_THREAD], sum = 0.0f;
  const auto fetch = [&](u32 start) {
#pragma unroll
    for (u32 j = 0; j < PER_THREAD; j++) {
      const u32 i = start + j * NORM_THREADS + thread;
      next[j] = i < dim ? x[i] : 0.0f;
    }
  };
  fetch(0);
  for (u32 start = 0, turn = 0; start < dim; start += PIECE, turn ^= 1) {
    float *piece = pieces + turn * PIECE;
#pragma unroll
    for (u32 j = 0; j < PER_THREAD; j++) piece[j * NORM_THREADS + thread] = next[j];
    // The other piece is not written before the first warp, which reads it, comes to the next barrier.
    __syncthreads();
    if (start + PIECE < dim) fetch(start + PIECE);
    if (thread < 32) sum = add_squares(piece, min(PIECE, dim - start), thread, sum);
  }
  if (thread < 32) {
    sum = tree16(FULL, sum);
    if (thread == 0) shared_inverse[0] = norm_inverse(sum, dim, args.eps);
  }
  __syncthreads();
  const float inverse = shared_inverse[0];

  for (u32 start = 0; start < args.out.n_blocks * 32; start += 4 * NORM_THREADS) {
    const u32 k = start + 4 * thread;
    float v[4], weight[4];
    load_4(x, k, dim, v);
    load_4(args.weight, k, dim, weight);
#pragma unroll
    for (u32 i = 0; i < 4; i++) v[i] = k + i < dim ? (v[i] * inverse) * weight[i] : 0.0f;
    put_4(args.out, row, k, v);
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
