// QK-norm and rotation of a pass's heads, and its keys and values into the KV cache.
#include "base.h"
#include "numerics.h"

// Number `c` of a key or value into its part; `index` is its place there.
DEVICE void put_number(u32 kv_type, u8 *part, u32 index, float x, float inverse) {
  if (kv_type == KV_F32) {
    reinterpret_cast<float *>(part)[index] = x;
  } else if (kv_type == KV_F16) {
    reinterpret_cast<u16 *>(part)[index] = kv_half(x);
  } else {
    part[index] = static_cast<u8>(code_of(x, inverse));
  }
}

// A warp's head, `[head_dim]` in shared memory, into its part of a tile, for the position `pos` within the tile.
DEVICE void store_head(const RopeStoreArgs &args, u8 *part, u32 pos, const float *head, bool is_key, u32 lane) {
  const u32 n = args.head_dim;
  float inverse = 0.0f;
  if (args.kv_type == KV_Q8) {
    u32 amax = 0;
    for (u32 c = lane; c < n; c += 32) amax = max(amax, magnitude_bits(head[c]));
#pragma unroll
    for (u32 h = 16; h > 0; h /= 2) amax = max(amax, __shfl_xor_sync(FULL, amax, h));
    const CodeScale scale = code_scale(amax);
    inverse = scale.inverse;
    if (lane == 0) reinterpret_cast<float *>(part + KV_TILE * n)[pos] = scale.d;
  }
  for (u32 c = lane; c < n; c += 32) {
    const u32 index = is_key ? key_index(n, pos, c) : pos * n + c;
    put_number(args.kv_type, part, index, head[c], inverse);
  }
}

// The head's norm, in place.
DEVICE void norm_head(float *head, const float *weight, u32 n, float eps, u32 lane) {
  float sum = 0.0f;
  for (u32 i = lane % 16; i < n; i += 16) sum = __fmaf_rn(head[i], head[i], sum);
  const float inverse = norm_inverse(tree16(FULL, sum), n, eps);
  __syncwarp();
  for (u32 c = lane; c < n; c += 32) head[c] = (head[c] * inverse) * weight[c];
  __syncwarp();
}

KERNEL_BOUNDS(chaski_rope_store, RopeStoreArgs, 128, 8) {
  SHARED(float, heads);
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.y, n = args.head_dim;
  const u32 n_kv = args.pool.n_kv_heads;
  u32 index = blockIdx.x * (blockDim.x / 32) + warp;
  // Heads of Q, K and V in turn; whole warps end here.
  if (index >= args.n_heads + 2 * n_kv) return;
  const bool is_q = index < args.n_heads;
  if (!is_q) index -= args.n_heads;
  const bool is_key = !is_q && index < n_kv;
  if (!is_q && !is_key) index -= n_kv;

  float *q = args.q + static_cast<u64>(row) * args.q_stride + index * n;
  const u64 kv_offset = static_cast<u64>(row) * args.kv_stride + index * n;
  const float *from = is_q ? q : (is_key ? args.k : args.v) + kv_offset;
  float *head = heads + warp * n;
  for (u32 c = lane; c < n; c += 32) head[c] = from[c];
  __syncwarp();

  if (is_q || is_key) {
    const float *weight = is_q ? args.q_norm : args.k_norm;
    if (weight != nullptr) norm_head(head, weight, n, args.eps, lane);
    const u32 half = n / 2;
    const float *cosines = args.rope + static_cast<u64>(row) * n, *sines = cosines + half;
    for (u32 i = lane; i < half; i += 32) {
      const float a = head[i], b = head[i + half], cosine = cosines[i], sine = sines[i];
      const float first = __fmaf_rn(a, cosine, -(b * sine)), second = __fmaf_rn(b, cosine, a * sine);
      head[i] = first;
      head[i + half] = second;
    }
    __syncwarp();
  }
  if (is_q) {
    for (u32 c = lane; c < n; c += 32) q[c] = head[c];
    return;
  }
  const QueryRow at = args.pool.query_rows[row];
  u8 *tile = kv_tile(args.pool, at.table, at.pos, index);
  store_head(args, is_key ? tile : tile + args.pool.part_bytes, at.pos % KV_TILE, head, is_key, lane);
}
