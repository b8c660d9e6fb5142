// The slots of each row, merged in order of their spans; what attention gives.
//
// The weights of up to 64 slots are found at once, since the largest score so far is a maximum, in whatever order it is
// found; what remains of the chain of a channel is a product and one `fma` for each slot.
#include "attend.h"

#define MERGE_THREADS 64u
#define MERGE_CHANNELS 4u  // of a thread: up to 256 of a head

// The largest m of the slots up to the thread's own, those that are not empty, and m_before of what comes before.
DEVICE float running_max(float m, float m_before, float *of_warps) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (u32 h = 1; h < 32; h *= 2) {
    const float other = __shfl_sync(FULL, m, lane >= h ? lane - h : lane);
    m = other > m ? other : m;
  }
  if (lane == 31) of_warps[warp] = m;
  __syncthreads();
  for (u32 w = 0; w < warp; w++) m = of_warps[w] > m ? of_warps[w] : m;
  return m_before > m ? m_before : m;
}

KERNEL_BOUNDS(chaski_attend_merge, AttendMergeArgs, 64, 8) {
  STATIC_SHARED(float, ms, MERGE_THREADS + 1);
  STATIC_SHARED(float, of_warps, MERGE_THREADS / 32);
  STATIC_SHARED(float, weights, 2 * MERGE_THREADS);
  const u32 head = blockIdx.x, row = blockIdx.y, head_dim = args.head_dim, len = head_dim + 2;
  const u32 first = args.row_slots[row], end = args.row_slots[row + 1];
  const u64 stride = static_cast<u64>(args.n_heads) * len;
  const float *states = args.states + first * stride + static_cast<u64>(head) * len;
  float acc[MERGE_CHANNELS], l = 0.0f, m_before = NO_SCORE;
#pragma unroll
  for (u32 k = 0; k < MERGE_CHANNELS; k++) acc[k] = EMPTY_SUM;
  for (u32 done = 0; done < end - first; done += MERGE_THREADS, states += MERGE_THREADS * stride) {
    const u32 n = end - first - done < MERGE_THREADS ? end - first - done : MERGE_THREADS;
    float own = NO_SCORE, own_l = 0.0f;
    if (threadIdx.x < n) {
      own_l = states[threadIdx.x * stride + head_dim + 1];
      own = own_l == 0.0f ? NO_SCORE : states[threadIdx.x * stride + head_dim];
    }
    const float m = running_max(own, m_before, of_warps);
    ms[threadIdx.x + 1] = m;
    if (threadIdx.x == 0) ms[0] = m_before;
    __syncthreads();
    // Nothing came before the first that is not empty. (A largest score of minus infinity is not a finite result.)
    const float before = ms[threadIdx.x];
    const bool skipped = own_l == 0.0f, taken = before == NO_SCORE;
    weights[2 * threadIdx.x] = skipped || taken ? 1.0f : exp_defined(before - m);
    weights[2 * threadIdx.x + 1] = skipped ? -1.0f : taken ? 1.0f : exp_defined(own - m);
    m_before = ms[MERGE_THREADS];
    __syncthreads();
#pragma unroll 4
    for (u32 i = 0; i < n; i++) {
      const MergeWeights w = {weights[2 * i], weights[2 * i + 1]};
      const float *state = states + i * stride;
#pragma unroll
      for (u32 k = 0; k < MERGE_CHANNELS; k++) {
        const u32 c = threadIdx.x + k * MERGE_THREADS;
        if (c < head_dim) acc[k] = merged(acc[k], state[c], w);
      }
      l = merged(l, state[head_dim + 1], w);
    }
    __syncthreads();
  }
  float *out = args.out + static_cast<u64>(row) * args.out_stride + head * head_dim;
#pragma unroll
  for (u32 k = 0; k < MERGE_CHANNELS; k++) {
    const u32 c = threadIdx.x + k * MERGE_THREADS;
    if (c < head_dim) out[c] = __fdiv_rn(acc[k], l);
  }
}
