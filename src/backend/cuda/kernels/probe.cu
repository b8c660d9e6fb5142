// Reads memory and nothing else: what a card's memory gives, measured.
#include "base.h"

DEVICE u32 folded(uint4 v) { return v.x ^ v.y ^ v.z ^ v.w; }

KERNEL_BOUNDS(chaski_read_probe, ReadProbeArgs, 256, 4) {
  STATIC_SHARED(u32, sums, 8);
  const u64 step = static_cast<u64>(gridDim.x) * blockDim.x;
  u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
  u32 x = 0;
  // Eight loads of each thread are under way at once.
  for (; i + 7 * step < args.n; i += 8 * step) {
    uint4 v[8];
#pragma unroll
    for (u32 j = 0; j < 8; j++) v[j] = load_stream_16(args.data + i + j * step);
#pragma unroll
    for (u32 j = 0; j < 8; j++) x ^= folded(v[j]);
  }
  for (; i < args.n; i += step) x ^= folded(load_stream_16(args.data + i));
#pragma unroll
  for (u32 h = 16; h > 0; h /= 2) x ^= __shfl_xor_sync(FULL, x, h);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (u32 warp = 1; warp < blockDim.x / 32; warp++) x ^= sums[warp];
    args.out[blockIdx.x] = x;
  }
}
