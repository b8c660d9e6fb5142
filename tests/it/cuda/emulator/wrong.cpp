// Kernels with a mistake each, which the emulation has to find. All take what the probe takes; blocks of 64 threads.
#include "numerics.h"

KERNEL(right, ReadProbeArgs) {
  SHARED(u32, shared);
  shared[threadIdx.x] = threadIdx.x;
  __syncthreads();
  args.out[threadIdx.x] = shared[63 - threadIdx.x];
}

KERNEL(no_barrier, ReadProbeArgs) {
  SHARED(u32, shared);
  shared[threadIdx.x] = threadIdx.x;
  args.out[threadIdx.x] = shared[63 - threadIdx.x];
}

KERNEL(barrier_of_some, ReadProbeArgs) {
  if (threadIdx.x < 32) __syncthreads();
}

KERNEL(barrier_of_half_a_warp, ReadProbeArgs) {
  if (threadIdx.x % 32 < 16) bar_sync(1, 32);
}

KERNEL(barrier_twice, ReadProbeArgs) {
  if (threadIdx.x < 32) bar_arrive(1, 64);
  if (threadIdx.x < 32) bar_arrive(1, 64);
}

KERNEL(lanes_that_ended, ReadProbeArgs) {
  if (threadIdx.x % 32 < 16) return;
  args.out[0] = __shfl_sync(FULL, threadIdx.x, 0);
}

KERNEL(lane_out_of_the_mask, ReadProbeArgs) {
  if (threadIdx.x % 32 < 16) args.out[0] = __shfl_sync(0xffffu, threadIdx.x, 20);
}

KERNEL(operations_that_differ, ReadProbeArgs) {
  if (threadIdx.x % 2) args.out[0] = __ballot_sync(FULL, 1);
  else args.out[0] = __shfl_sync(FULL, 1u, 0);
}

KERNEL(no_wait, ReadProbeArgs) {
  SHARED(uint4, shared);
  cp_async_16(shared + threadIdx.x, args.data + threadIdx.x);
  cp_async_commit();
  cp_async_wait<1>();
  args.out[threadIdx.x] = shared[threadIdx.x].x;
}

KERNEL(wait, ReadProbeArgs) {
  SHARED(uint4, shared);
  cp_async_16(shared + threadIdx.x, args.data + threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  args.out[threadIdx.x] = shared[threadIdx.x].x;
}

KERNEL(out_of_line, ReadProbeArgs) { args.out[0] = reinterpret_cast<const uint4 *>(args.out + 1)->x; }

KERNEL(beyond_shared, ReadProbeArgs) {
  SHARED(u32, shared);
  shared[64 * 16 / 4 + threadIdx.x] = 0;
}

KERNEL(beyond_an_array, ReadProbeArgs) { args.out[64 + threadIdx.x] = 0; }

KERNEL(far_beyond_an_array, ReadProbeArgs) { args.out[4096 + threadIdx.x] = 0; }
