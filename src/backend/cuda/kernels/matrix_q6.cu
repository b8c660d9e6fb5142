// Q6: integers -32 to 31. A block is 16 scale bytes, the vectors of Q4, and two planes of a word for each row: byte i of plane p
// has the upper two bits of the weights 16 p + 4 v + i at bits 2 v and 2 v + 1.
#include "matmul.h"
#include "matvec.h"

struct Q6 {
  enum : u32 { BLOCK_BYTES = 16 + 256 + 128 };
  enum : u32 { HALVES = 1 };
  enum : bool { OWN_BLOCKS = false };
  enum : bool { CORRECTED = false };
  // A code with its upper bit flipped, at the top of a byte, is 4 times the value, with its sign.
  DEVICE static constexpr float factor() { return 0.25f; }

  struct Words {
    uint2 nibbles;
    uint2 upper[2];
  };

  DEVICE static Words load(const u8 *block, u32 g, u32 t) {
    const u8 *upper = block + 272 + 8 * g;
    return {*reinterpret_cast<const uint2 *>(block + 16 + 64 * t + 8 * g),
            {*reinterpret_cast<const uint2 *>(upper), *reinterpret_cast<const uint2 *>(upper + 64)}};
  }

  // `nibbles`: the four lower bits at bits 2 to 5 of each byte, beside others.
  DEVICE static u32 values(u32 nibbles, u32 upper, u32 t) {
    return ((nibbles & 0x3c3c3c3cu) | 0x80808080u) ^ (rotate_left(upper, 6 - 2 * t) & 0xc0c0c0c0u);
  }

  DEVICE static void quick(const Words &words, u32 t, u32, u32 a[4]) {
    a[0] = values(words.nibbles.x << 2, words.upper[0].x, t);
    a[1] = values(words.nibbles.y << 2, words.upper[0].y, t);
    a[2] = values(words.nibbles.x >> 2, words.upper[1].x, t);
    a[3] = values(words.nibbles.y >> 2, words.upper[1].y, t);
  }

  DEVICE static void quick_codes(uint2 codes, u32 b[2]) {
    b[0] = codes.x;
    b[1] = codes.y;
  }

  DEVICE static void exact(const Words &words, const u32 *, u32 t, u32, u32 a[4]) { quick(words, t, 0, a); }

  // The block scales of both rows, of their bytes.
  DEVICE static void scales(u32 bytes, float to[2]) { signed_bytes(bytes, to); }
};

MATVEC(chaski_matvec_q6, Q6)
MATMUL(chaski_matmul_q6, Q6)
