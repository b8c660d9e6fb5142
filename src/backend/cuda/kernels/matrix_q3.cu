// Q3: codes of 3 bits into a codebook, and a shift of 0 or 1 beside the block scale.
//
// A block is 16 scale bytes and 3 vectors of 16 words: word `row` of vector v has weights 4 v to 4 v + 3 in bits 0 to 2 of its
// bytes and 16 + 4 v to 16 + 4 v + 3 in bits 3 to 5. The weights 12 to 15 have two bits each in bits 6 and 7 of vector 0, 28 to 31
// in those of vector 1; the third ones are bit 6 and bit 7 of vector 2.
#include "matmul.h"
#include "matvec.h"

// The codebook, of the codes 0 to 3 and 4 to 7: -16 -10 -6 -3, 0 3 7 12. No byte has a carry when it gets a shift.
#define Q3_LOW 0xfdfaf6f0u
#define Q3_HIGH 0x0c070300u

struct Q3 {
  enum : u32 { BLOCK_BYTES = 16 + 192 };
  enum : u32 { HALVES = 1 };
  enum : bool { OWN_BLOCKS = true };
  enum : bool { CORRECTED = true };
  DEVICE static constexpr float factor() { return 1.0f; }

  // The words of rows 2 g and 2 g + 1 that have lane t's codes: up to two bits of the first 16 weights' and of the last 16
  // weights', and the third ones. For t < 3 they are the same.
  struct Words {
    uint2 low;
    uint2 high;
    uint2 third;
  };

  DEVICE static Words load(const u8 *block, u32 g, u32 t) {
    const u8 *words = block + 16 + 8 * g;
    return {*reinterpret_cast<const uint2 *>(words + (t < 3 ? 64 * t : 0)),
            *reinterpret_cast<const uint2 *>(words + (t < 3 ? 64 * t : 64)),
            *reinterpret_cast<const uint2 *>(words + (t < 3 ? 64 * t : 128))};
  }

  // The codes as nibbles whose upper bit is clear, weight i of the first 16 and i of the last 16 in turns. All lanes do the same,
  // by how far they rotate.
  DEVICE static u32 codes(u32 low, u32 high, u32 third, u32 t) {
    const bool rest = t == 3;
    return (rotate_left(low, rest ? 26 : 0) & 0x03030303u) | (rotate_left(third, rest ? 28 : 0) & 0x04040404u) |
           (rotate_left(high, rest ? 30 : 1) & 0x30303030u) | (rotate_left(third, rest ? 31 : 1) & 0x40404040u);
  }

  // A fragment of values, shift left out, in these turns.
  DEVICE static void quick(const Words &words, u32 t, u32 half_turn, u32 a[4]) {
    const u32 c0 = codes(words.low.x, words.high.x, words.third.x, t), c1 = codes(words.low.y, words.high.y, words.third.y, t);
    a[0] = prmt(Q3_LOW, Q3_HIGH, c0);
    a[1] = prmt(Q3_LOW, Q3_HIGH, c1);
    a[2] = prmt(Q3_LOW, Q3_HIGH, __umulhi(c0, half_turn));
    a[3] = prmt(Q3_LOW, Q3_HIGH, __umulhi(c1, half_turn));
  }

  // Rows 2 g and 2 g + 1 of a block.
  struct Whole {
    uint2 vectors[3];
  };

  DEVICE static Whole load_whole(const u8 *block, u32 g) {
    Whole whole;
#pragma unroll
    for (u32 v = 0; v < 3; v++) whole.vectors[v] = *reinterpret_cast<const uint2 *>(block + 16 + 64 * v + 8 * g);
    return whole;
  }

  // The same codes of weights 4 e and 16 + 4 e on, where a lane has all words.
  DEVICE static u32 whole_codes(u32 first, u32 second, u32 third, u32 e) {
    if (e == 3) {
      return (first >> 6 & 0x03030303u) | (third >> 4 & 0x04040404u) | (second >> 2 & 0x30303030u) | (third >> 1 & 0x40404040u);
    }
    const u32 own = e == 0 ? first : e == 1 ? second : third;
    return (own & 0x07070707u) | (own << 1 & 0x70707070u);
  }

  // As `quick`, of weights 4 e and 16 + 4 e on.
  DEVICE static void quick_whole(const Whole &whole, u32 e, u32 half_turn, u32 a[4]) {
    const uint2(&v)[3] = whole.vectors;
    const u32 c0 = whole_codes(v[0].x, v[1].x, v[2].x, e), c1 = whole_codes(v[0].y, v[1].y, v[2].y, e);
    a[0] = prmt(Q3_LOW, Q3_HIGH, c0);
    a[1] = prmt(Q3_LOW, Q3_HIGH, c1);
    a[2] = prmt(Q3_LOW, Q3_HIGH, __umulhi(c0, half_turn));
    a[3] = prmt(Q3_LOW, Q3_HIGH, __umulhi(c1, half_turn));
  }

  DEVICE static void quick_codes(uint2 codes, u32 b[2]) { in_turns(codes, b); }

  // A sum of `quick` (`SUM_FLOAT` more than it) as it is with values: `codes` is the sum of the activations' codes, `bytes` has
  // the shift of row 0 or 1 at bit 0 or 8. Every step is exact.
  DEVICE static float corrected(float sum, u32 bytes, u32 row, float codes) {
    const float plain = sum - SUM_FLOAT;
    return bytes >> 8 * row & 1 ? plain + codes : plain;
  }

  // A fragment of values, `a[0]` and `a[1]` of the first 16 weights. `scales`: the scale bytes of both rows.
  DEVICE static void exact(const Words &words, const u32 scales[1], u32 t, u32 half_turn, u32 a[4]) {
#pragma unroll
    for (u32 row = 0; row < 2; row++) {
      const u32 c = row == 0 ? codes(words.low.x, words.high.x, words.third.x, t) : codes(words.low.y, words.high.y, words.third.y, t);
      const u32 shift = prmt(scales[0], 0, row == 0 ? 0x0000 : 0x1111) & 0x01010101u;
      const u32 first = prmt(Q3_LOW + shift, Q3_HIGH + shift, c);
      const u32 second = prmt(Q3_LOW + shift, Q3_HIGH + shift, __umulhi(c, half_turn));
      a[row] = prmt(first, second, 0x6420);
      a[2 + row] = prmt(first, second, 0x7531);
    }
  }

  DEVICE static void scales(u32 bytes, float to[2]) { shifted_scales(bytes, to); }
};

MATVEC(chaski_matvec_q3, Q3)
MATMUL(chaski_matmul_q3, Q3)
