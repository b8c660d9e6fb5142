// Q5: integers -16 to 15. A block is 16 scale bytes, the vectors of Q4, and a word for each row whose byte i has bit 4 of the
// weights 4 v + i at bit v.
#include "matmul.h"
#include "matvec.h"

struct Q5 {
  enum : u32 { BLOCK_BYTES = 16 + 256 + 64 };
  enum : u32 { HALVES = 1 };
  enum : bool { OWN_BLOCKS = false };
  enum : bool { CORRECTED = false };
  // A code with its upper bit flipped, at the top of a byte, is 8 times the value, with its sign.
  DEVICE static constexpr float factor() { return 0.125f; }

  struct Words {
    uint2 nibbles;
    uint2 upper;
  };

  DEVICE static Words load(const u8 *block, u32 g, u32 t) {
    return {*reinterpret_cast<const uint2 *>(block + 16 + 64 * t + 8 * g), *reinterpret_cast<const uint2 *>(block + 272 + 8 * g)};
  }

  DEVICE static u32 low(u32 nibbles, u32 upper, u32 t) {
    return ((nibbles << 3 & 0x78787878u) | 0x80808080u) ^ (rotate_left(upper, 7 - t) & 0x80808080u);
  }

  DEVICE static u32 high(u32 nibbles, u32 upper, u32 t) {
    return ((nibbles >> 1 & 0x78787878u) | 0x80808080u) ^ (rotate_left(upper, 3 - t) & 0x80808080u);
  }

  DEVICE static void quick(const Words &words, u32 t, u32, u32 a[4]) {
    a[0] = low(words.nibbles.x, words.upper.x, t);
    a[1] = low(words.nibbles.y, words.upper.y, t);
    a[2] = high(words.nibbles.x, words.upper.x, t);
    a[3] = high(words.nibbles.y, words.upper.y, t);
  }

  DEVICE static void quick_codes(uint2 codes, u32 b[2]) {
    b[0] = codes.x;
    b[1] = codes.y;
  }

  DEVICE static void exact(const Words &words, const u32 *, u32 t, u32, u32 a[4]) { quick(words, t, 0, a); }

  // The block scales of both rows, of their bytes.
  DEVICE static void scales(u32 bytes, float to[2]) { signed_bytes(bytes, to); }
};

MATVEC(chaski_matvec_q5, Q5)
MATMUL(chaski_matmul_q5, Q5)
