// What every kernel is written with. The same source is compiled twice: by NVRTC, to PTX, and by a C++ compiler over an
// emulation of a block of threads (`CHASKI_EMULATE`), in tests.
//
// No other header is included, so that NVRTC needs none. Arithmetic that a definition names is written by `__fmaf_rn`,
// `__fdiv_rn` and `__fsqrt_rn`; other `+ - *` are single operations, since both compilers are told not to contract.
#pragma once

#ifdef CHASKI_EMULATE
#include "emulate.h"
#endif

typedef signed char i8;
typedef short i16;
typedef int i32;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#include "args.h"

#define DEVICE __device__ __forceinline__
#define RESTRICT __restrict

// All lanes of a warp.
#define FULL 0xffffffffu

#ifndef CHASKI_EMULATE

// An entry. `KERNEL_BOUNDS` also says with how many threads at most, and how many blocks a multiprocessor is to hold.
#define KERNEL(name, Args) extern "C" __global__ void name(const Args args)
#define KERNEL_BOUNDS(name, Args, threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks) name(const Args args)

// The dynamic shared memory, aligned to 16 bytes, as an array of `T`.
#define SHARED(T, name)                                            \
  extern __shared__ __align__(16) unsigned char chaski_shared[];   \
  T *const name = reinterpret_cast<T *>(chaski_shared)

// `n` elements of static shared memory, aligned to 16 bytes; `name` is an array of `T` or a pointer to its first element.
#define STATIC_SHARED(T, name, n) __shared__ __align__(16) T name[n]

// Barrier `id` (0..16; 0 is `__syncthreads`'s) of `threads` threads, whole warps: waits for them, or only counts as there.
DEVICE void bar_sync(u32 id, u32 threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEVICE void bar_arrive(u32 id, u32 threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// `prmt.b32`: byte `i` of the result is byte `selector >> 4 i & 7` of `a` (0 to 3) and `b` (4 to 7), or its sign eight times
// where bit 3 is set as well.
DEVICE u32 prmt(u32 a, u32 b, u32 selector) {
  u32 d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
  return d;
}

// d += a * b, 8-bit integers with sign, over a warp. With g = lane / 4 and t = lane % 4: `a[0]` and `a[1]` are rows g and
// g + 8 of A, columns 4 t to 4 t + 3, `a[2]` and `a[3]` the same 16 columns on; `b[0]` and `b[1]` rows 4 t to 4 t + 3 and
// 16 on of column g of B; `d[0]`, `d[1]` row g of D, columns 2 t and 2 t + 1, `d[2]`, `d[3]` row g + 8.
DEVICE void mma_m16n8k32_s8(i32 d[4], const u32 a[4], const u32 b[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same for 16 columns of A and rows of B.
DEVICE void mma_m16n8k16_s8(i32 d[4], const u32 a[2], u32 b) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

// Starts a copy of 16 bytes, both ends aligned to 16: its thread may read them after `cp_async_wait`, others after a barrier
// that follows it. `cp_async_16_or_zero` writes zeros, and reads nothing, where `valid` is false.
DEVICE void cp_async_16(void *shared, const void *global) {
  const u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
DEVICE void cp_async_16_or_zero(void *shared, const void *global, bool valid) {
  const u32 to = static_cast<u32>(__cvta_generic_to_shared(shared)), bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
// The same for 4 bytes.
DEVICE void cp_async_4(void *shared, const void *global) {
  const u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(global) : "memory");
}
// Ends a group of copies of this thread.
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until all of this thread's groups but the latest `N` are there.
template <int N> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// 16 bytes that no thread writes while the kernel runs, aligned to 16: to be read again, or once.
DEVICE uint4 load_global_16(const void *p) { return __ldg(static_cast<const uint4 *>(p)); }
DEVICE uint4 load_stream_16(const void *p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}

// binary16 to binary32, exact.
DEVICE float half_to_float(u16 bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}
// binary32 to binary16, to nearest even.
DEVICE u16 float_to_half(float x) {
  u16 bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

#endif
