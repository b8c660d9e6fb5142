// A block of CUDA threads on one thread of the CPU: what `base.h` and the compiler give a kernel, given here.
//
// Each thread of a block is a fiber; it runs until it waits (a barrier, an exchange between lanes) or ends. Which one goes on
// is drawn by the launch's seed, so that a result that depends on an order differs from seed to seed. What is wrong on a device
// without showing there is an error here: a barrier that not all threads reach, lanes that exchange with others that do not, an
// access outside of an allocation or out of line. Shared memory begins as NaNs, and so does the target of an asynchronous copy
// until it has been waited for.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

struct uint3 { unsigned x, y, z; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(8) int2 { int x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

#define __device__
#define __forceinline__ inline
#define __align__(n) alignas(n)
#define __launch_bounds__(...)

namespace emulated {

// Where a kernel's thread is.
struct Place {
  uint3 thread, block, block_dim, grid_dim;
};
// Of the fiber that runs.
extern thread_local const Place *place;

// An entry, known by its name from when the library is loaded.
struct Entry {
  const char *name;
  size_t args_bytes;
  unsigned max_threads;
  void (*run)(const void *args);
  const Entry *next;
  Entry(const char *name, size_t args_bytes, unsigned max_threads, void (*run)(const void *));
};

// Ends the launch with a message (of `printf`).
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Kinds of exchange: lanes that meet must ask for the same.
enum class Kind : int { SyncWarp, Shuffle, Ballot, MmaK32, MmaK16 };

// Gives `n` words to the lanes of `mask` and waits for theirs: word `j` of lane `i` is `[j][i]` of the result, which stays
// until the calling lane's next exchange.
typedef unsigned long long Words[8][32];
const Words &exchange(Kind kind, unsigned mask, const unsigned long long *words, int n);

void barrier(unsigned id, unsigned threads, bool wait);
void *dynamic_shared();
// The block's memory for one declaration, known by `tag`.
void *static_shared(const void *tag, size_t bytes);

void copy_async(void *shared, const void *global, unsigned bytes, bool valid);
void copy_commit();
void copy_wait(unsigned latest);

inline unsigned lane() { return place->thread.x % 32; }

// A shuffle of anything of up to 8 bytes.
template <typename T> T shuffle(unsigned mask, T value, unsigned from) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles take 4 or 8 bytes");
  unsigned long long word = 0;
  std::memcpy(&word, &value, sizeof(T));
  const Words &words = exchange(Kind::Shuffle, mask, &word, 1);
  // A lane that does not take part has no value to give.
  if (!(mask >> from & 1)) fail("lane %u reads lane %u, which is not in the shuffle's mask %#x", lane(), from, mask);
  std::memcpy(&value, &words[0][from], sizeof(T));
  return value;
}

}  // namespace emulated

#define threadIdx (emulated::place->thread)
#define blockIdx (emulated::place->block)
#define blockDim (emulated::place->block_dim)
#define gridDim (emulated::place->grid_dim)

#define KERNEL_BOUNDS(name, Args, threads, blocks)                                                              \
  static void name(const Args args);                                                                            \
  static const emulated::Entry name##_entry(#name, sizeof(Args), threads,                                       \
                                            [](const void *args) { name(*static_cast<const Args *>(args)); }); \
  static void name(const Args args)
#define KERNEL(name, Args) KERNEL_BOUNDS(name, Args, 1024, 1)
#define SHARED(T, name) T *const name = static_cast<T *>(emulated::dynamic_shared())
#define STATIC_SHARED(T, name, n)  \
  static const char name##_tag = 0; \
  T *const name = static_cast<T *>(emulated::static_shared(&name##_tag, sizeof(T) * (n)))

inline void __syncthreads() { emulated::barrier(0, blockDim.x * blockDim.y * blockDim.z, true); }
inline void bar_sync(unsigned id, unsigned threads) { emulated::barrier(id, threads, true); }
inline void bar_arrive(unsigned id, unsigned threads) { emulated::barrier(id, threads, false); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulated::exchange(emulated::Kind::SyncWarp, mask, nullptr, 0); }

template <typename T> T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  const unsigned lane = emulated::lane(), w = width;
  return emulated::shuffle(mask, value, (lane & ~(w - 1)) | (static_cast<unsigned>(from) & (w - 1)));
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const unsigned lane = emulated::lane(), from = lane ^ static_cast<unsigned>(bits);
  return emulated::shuffle(mask, value, from / width > lane / width ? lane : from);
}
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = emulated::lane(), w = width;
  return emulated::shuffle(mask, value, (lane & (w - 1)) + delta < w ? lane + delta : lane);
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = emulated::lane(), w = width;
  return emulated::shuffle(mask, value, (lane & (w - 1)) >= delta ? lane - delta : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned long long word = predicate != 0;
  const emulated::Words &words = emulated::exchange(emulated::Kind::Ballot, mask, &word, 1);
  unsigned bits = 0;
  for (unsigned i = 0; i < 32; i++)
    if (mask >> i & 1) bits |= static_cast<unsigned>(words[0][i]) << i;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

inline unsigned __float_as_uint(float x) { unsigned u; std::memcpy(&u, &x, 4); return u; }
inline int __float_as_int(float x) { int u; std::memcpy(&u, &x, 4); return u; }
inline float __uint_as_float(unsigned u) { float x; std::memcpy(&x, &u, 4); return x; }
inline float __int_as_float(int u) { float x; std::memcpy(&x, &u, 4); return x; }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline float __int2float_rn(int i) { return static_cast<float>(i); }
inline float __uint2float_rn(unsigned i) { return static_cast<float>(i); }
// To nearest even; the limits beyond them, and 0 for NaN.
inline int __float2int_rn(float x) {
  if (!(x == x)) return 0;
  if (x >= 2147483648.0f) return 2147483647;
  return x < -2147483648.0f ? -2147483647 - 1 : static_cast<int>(__builtin_rintf(x));
}
using std::rintf;
template <typename T> T min(T a, T b) { return b < a ? b : a; }
template <typename T> T max(T a, T b) { return a < b ? b : a; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <typename T> T __ldg(const T *p) { return *p; }
template <typename T> T __ldcs(const T *p) { return *p; }
template <typename T> T __ldcg(const T *p) { return *p; }
template <typename T> void __stcs(T *p, T value) { *p = value; }
template <typename T> void __stcg(T *p, T value) { *p = value; }
inline void __threadfence() {}
inline void __threadfence_block() {}

inline int __dp4a(int a, int b, int c) {
  unsigned sum = static_cast<unsigned>(c);
  for (int i = 0; i < 4; i++) {
    const int x = static_cast<int8_t>(static_cast<unsigned>(a) >> 8 * i), y = static_cast<int8_t>(static_cast<unsigned>(b) >> 8 * i);
    sum += static_cast<unsigned>(x * y);
  }
  return static_cast<int>(sum);
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long bytes = static_cast<unsigned long long>(b) << 32 | a;
  unsigned d = 0;
  for (int i = 0; i < 4; i++) d |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return d;
}
inline unsigned prmt(unsigned a, unsigned b, unsigned selector) {
  unsigned d = __byte_perm(a, b, selector);
  for (int i = 0; i < 4; i++)
    if (selector >> 4 * i & 8) {
      const unsigned sign = d >> (8 * i + 7) & 1 ? 255u : 0u;
      d = (d & ~(255u << 8 * i)) | sign << 8 * i;
    }
  return d;
}

void mma_m16n8k32_s8(int d[4], const unsigned a[4], const unsigned b[2]);
void mma_m16n8k16_s8(int d[4], const unsigned a[2], unsigned b);

inline void cp_async_16(void *shared, const void *global) { emulated::copy_async(shared, global, 16, true); }
inline void cp_async_16_or_zero(void *shared, const void *global, bool valid) { emulated::copy_async(shared, global, 16, valid); }
inline void cp_async_4(void *shared, const void *global) { emulated::copy_async(shared, global, 4, true); }
inline void cp_async_commit() { emulated::copy_commit(); }
template <int N> void cp_async_wait() { emulated::copy_wait(N); }

inline uint4 load_global_16(const void *p) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) emulated::fail("16 bytes are read at %p", p);
  return *static_cast<const uint4 *>(p);
}
inline uint4 load_stream_16(const void *p) { return load_global_16(p); }

inline float half_to_float(unsigned short bits) {
  const unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, mantissa = bits & 1023;
  if (exponent == 0) {
    const float x = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -x : x;
  }
  const unsigned high = exponent == 31 ? 255 : exponent + 112;
  return __uint_as_float(sign | high << 23 | mantissa << 13);
}
inline unsigned short float_to_half(float x) {
  const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Below 2^-14: units of 2^-24, rounded by adding what makes them a float's last bits.
    return sign | static_cast<unsigned short>(__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000);
  }
  return sign | static_cast<unsigned short>((magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13);
}
