// What the kernels that multiply matrices share.
//
// A warp's lane is g = lane / 4, t = lane % 4, as `mma` has it (base.h). Row g of a fragment is row 2 g of the tile, row
// g + 8 is row 2 g + 1: a lane's two rows are neighbours, so that one load has the words of both.
#pragma once
#include "base.h"

#define BLOCK 32u
#define TILE_ROWS 16u
// Bytes of the row scales in front of a tile of a quantised type.
#define TILE_HEADER 64u

// Sums start from these bits: 3 * 2^22 as a float, and an integer's steps are its last bits. A sum below 2^22 then is a
// float already, but for that number.
#define SUM_BITS 0x4b400000
#define SUM_FLOAT 12582912.0f

// Two bytes with their signs as floats: exact, without a conversion.
DEVICE void signed_bytes(u32 bytes, float to[2]) {
  const u32 unsigned_bytes = bytes ^ 0x8080u;
  to[0] = __uint_as_float(prmt(unsigned_bytes, 0x4b000000u, 0x7650)) - (8388608.0f + 128.0f);
  to[1] = __uint_as_float(prmt(unsigned_bytes, 0x4b000000u, 0x7651)) - (8388608.0f + 128.0f);
}

// Block scales of both rows, of bytes that have a shift in bit 0: half a byte without it is 64 more. The last bit of these
// floats is a half.
DEVICE void shifted_scales(u32 bytes, float to[2]) {
  const u32 twice = bytes & 0xfefeu;
  to[0] = __uint_as_float(prmt(twice, 0x4a800000u, 0x7650)) - (4194304.0f + 64.0f);
  to[1] = __uint_as_float(prmt(twice, 0x4a800000u, 0x7651)) - (4194304.0f + 64.0f);
}

// The activations' words t and t + 4, a byte of each in turns, as the values of codes that share a byte are.
DEVICE void in_turns(uint2 codes, u32 b[2]) {
  b[0] = prmt(codes.x, codes.y, 0x5140);
  b[1] = prmt(codes.x, codes.y, 0x7362);
}

// A rotation; the upper half of a product; and an address in shared memory as copies take it, which is worked out once: the
// compiler does not do so by itself.
#ifdef CHASKI_EMULATE
DEVICE u32 rotate_left(u32 x, u32 n) { return x << n | x >> (32 - n) % 32; }
DEVICE u32 __umulhi(u32 a, u32 b) { return static_cast<u32>(static_cast<u64>(a) * b >> 32); }
typedef u8 *SharedAt;
DEVICE SharedAt shared_at(u8 *p) { return p; }
DEVICE void copy_16(SharedAt to, const void *from) { cp_async_16(to, from); }
#else
// One instruction; of the above the compiler makes three.
DEVICE u32 rotate_left(u32 x, u32 n) {
  u32 d;
  asm("shf.l.wrap.b32 %0, %1, %1, %2;" : "=r"(d) : "r"(x), "r"(n));
  return d;
}
typedef u32 SharedAt;
DEVICE SharedAt shared_at(u8 *p) {
  SharedAt at;
  asm volatile("mov.u32 %0, %1;" : "=r"(at) : "r"(static_cast<u32>(__cvta_generic_to_shared(p))));
  return at;
}
DEVICE void copy_16(SharedAt to, const void *from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
#endif

// d = SUM_BITS + a * b.
DEVICE void mma_sum(i32 d[4], const u32 a[4], const u32 b[2]) {
#ifdef CHASKI_EMULATE
  for (u32 i = 0; i < 4; i++) d[i] = SUM_BITS;
  mma_m16n8k32_s8(d, a, b);
#else
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(SUM_BITS));
#endif
}

// The same of 16 columns of A.
DEVICE void mma_sum(i32 d[4], const u32 a[2], u32 b) {
#ifdef CHASKI_EMULATE
  for (u32 i = 0; i < 4; i++) d[i] = SUM_BITS;
  mma_m16n8k16_s8(d, a, b);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b), "r"(SUM_BITS));
#endif
}

// An integer sum of type T from the bits that `mma_sum` left.
template <class T> DEVICE float plain_sum(i32 bits) {
  const float sum = __uint_as_float(bits);
  return T::factor() == 1.0f ? sum - SUM_FLOAT : __fmaf_rn(sum, T::factor(), -SUM_FLOAT * T::factor());
}

// A tile of a launch: its matrix, its number within it, and its bytes.
struct TileAt {
  MatrixPart part;
  u32 tile;
  const u8 *bytes;
};

// Tile `tile` of all parts. Copies, since an address of a parameter would put all of them into local memory.
DEVICE TileAt tile_at(const MatrixArgs &args, u32 tile) {
  TileAt at = {args.parts[0], tile, nullptr};
  if (at.tile >= args.parts[0].n_tiles) {
    at.tile -= args.parts[0].n_tiles;
    at.part = args.parts[1];
    if (at.tile >= args.parts[1].n_tiles) {
      at.tile -= args.parts[1].n_tiles;
      at.part = args.parts[2];
    }
  }
  at.bytes = at.part.tiles + at.tile * at.part.stride;
  return at;
}

// Where the products of a tile's row 0 go, and how many of its rows there are.
struct RowsAt {
  u32 first;
  u32 n;
};

DEVICE RowsAt rows_at(const TileAt &at) {
  const u32 group = at.tile / at.part.tiles_per_group, within = at.tile % at.part.tiles_per_group;
  const u32 start = within * TILE_ROWS, left = at.part.row_group - start;
  return {group * at.part.row_group + start, left < TILE_ROWS ? left : TILE_ROWS};
}

// Writes the product of activations `row` and matrix row `column`: bias and residual are added in this order.
DEVICE void put_product(const MatrixPart &part, u32 row, u32 column, float y) {
  const u64 at = static_cast<u64>(row) * part.out_stride + column;
  if (part.bias) y = y + part.bias[column];
  if (part.residual) y = y + part.residual[at];
  part.out[at] = y;
}
