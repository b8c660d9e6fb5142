// Q4 and Q4H: codes of 4 bits into a codebook, and a shift of 0 or 1 beside the block scale.
//
// A block is 16 scale bytes (Q4H: 16 of the low halves, 16 of the high ones) and 4 vectors of 16 words: word `row` of vector
// `t` has weights 4 t to 4 t + 3 in its low nibbles and 16 + 4 t to 16 + 4 t + 3 in its high ones.
#include "matmul.h"
#include "matvec.h"

// The codebook plus 32, of the codes 0 to 7 and 8 to 15: 0 6 11 16 20 23 26 29, 32 35 38 41 45 49 54 60.
#define Q4_LOW make_uint2(0x100b0600u, 0x1d1a1714u)
#define Q4_HIGH make_uint2(0x29262320u, 0x3c36312du)

// Values plus 32 of the four codes in the lower half of `codes`, in the order of the nibbles: a selector with its bit 3 set gives
// the sign of a byte, 0 in both tables. `flipped`: the codes with that bit flipped. No bit is set in both; a sum leaves the
// compiler the choice between two units.
DEVICE u32 q4_values(u32 codes, u32 flipped) {
  return prmt(Q4_LOW.x, Q4_LOW.y, codes) + prmt(Q4_HIGH.x, Q4_HIGH.y, flipped);
}

// Halves: how many sums a block has.
template <u32 Halves> struct Q4Type {
  enum : u32 { BLOCK_BYTES = 16 * Halves + 256 };
  enum : u32 { HALVES = Halves };
  // Whether the words of a lane are those of others too, so that it had better have whole blocks (matvec.h).
  enum : bool { OWN_BLOCKS = false };
  // Whether sums of `quick` are to be corrected.
  enum : bool { CORRECTED = true };
  // What a sum has to be multiplied with.
  DEVICE static constexpr float factor() { return 1.0f; }

  // The words of vector t, rows 2 g and 2 g + 1.
  struct Words {
    uint2 nibbles;
  };

  DEVICE static Words load(const u8 *block, u32 g, u32 t) {
    return {*reinterpret_cast<const uint2 *>(block + 16 * Halves + 64 * t + 8 * g)};
  }

  // A fragment whose bytes are values plus 32, shift left out, with low and high nibbles in turns.
  // `half_turn` is 2^16: the unit that multiplies has less to do than the one that shifts.
  DEVICE static void quick(const Words &words, u32, u32 half_turn, u32 a[4]) {
    const u32 w0 = words.nibbles.x, w1 = words.nibbles.y, f0 = w0 ^ 0x88888888u, f1 = w1 ^ 0x88888888u;
    a[0] = q4_values(w0, f0);
    a[1] = q4_values(w1, f1);
    a[2] = q4_values(__umulhi(w0, half_turn), __umulhi(f0, half_turn));
    a[3] = q4_values(__umulhi(w1, half_turn), __umulhi(f1, half_turn));
  }

  DEVICE static void quick_codes(uint2 codes, u32 b[2]) { in_turns(codes, b); }

  // The codes of one half only, with zeros for the other.
  DEVICE static void quick_half(u32 half, u32 b[2]) {
    const u32 mask = half == 0 ? 0x00ff00ffu : 0xff00ff00u;
    b[0] &= mask;
    b[1] &= mask;
  }

  // A sum of `quick` (`SUM_FLOAT` more than it) as it is with values: `codes` is the sum of the activations' codes, `bytes` has
  // the shift of row 0 or 1 at bit 0 or 8. Every step is exact.
  DEVICE static float corrected(float sum, u32 bytes, u32 row, float codes) {
    const float plain = sum + __fmaf_rn(-32.0f, codes, -SUM_FLOAT);
    return bytes >> 8 * row & 1 ? plain + codes : plain;
  }

  // A fragment of values, `a[0]` and `a[1]` from the low nibbles. `scales`: the scale bytes of both rows, for each half.
  DEVICE static void exact(const Words &words, const u32 scales[Halves], u32, u32 half_turn, u32 a[4]) {
    quick(words, 0, half_turn, a);
    const u32 high = scales[Halves - 1];
#pragma unroll
    for (u32 row = 0; row < 2; row++) {
      // 0x60 + shift: with the table's 32 and bit 7 flipped, a value and its sign. Nothing is carried from byte to byte.
      const u32 shift = prmt(scales[0], high, row == 0 ? 0x4040 : 0x5151) & 0x01010101u;
      const u32 first = (a[row] + (shift | 0x60606060u)) ^ 0x80808080u;
      const u32 second = (a[2 + row] + (shift | 0x60606060u)) ^ 0x80808080u;
      a[row] = prmt(first, second, 0x6420);
      a[2 + row] = prmt(first, second, 0x7531);
    }
  }

  DEVICE static void scales(u32 bytes, float to[2]) { shifted_scales(bytes, to); }
};

typedef Q4Type<1> Q4;
typedef Q4Type<2> Q4H;

MATVEC(chaski_matvec_q4, Q4)
MATMUL(chaski_matmul_q4, Q4)

MATVEC(chaski_matvec_q4h, Q4H)
MATMUL(chaski_matmul_q4h, Q4H)
