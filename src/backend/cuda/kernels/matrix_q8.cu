// Q8: integers -127 to 127. A block is 16 scale bytes and 8 vectors of 16 words: word `row` of vector v has the weights 4 v to
// 4 v + 3, as they are.
#include "matmul.h"
#include "matvec.h"

struct Q8 {
  enum : u32 { BLOCK_BYTES = 16 + 512 };
  enum : u32 { HALVES = 1 };
  enum : bool { OWN_BLOCKS = false };
  enum : bool { CORRECTED = false };
  DEVICE static constexpr float factor() { return 1.0f; }

  struct Words {
    uint2 low;
    uint2 high;
  };

  DEVICE static Words load(const u8 *block, u32 g, u32 t) {
    const u8 *words = block + 16 + 64 * t + 8 * g;
    return {*reinterpret_cast<const uint2 *>(words), *reinterpret_cast<const uint2 *>(words + 256)};
  }

  DEVICE static void quick(const Words &words, u32, u32, u32 a[4]) {
    a[0] = words.low.x;
    a[1] = words.low.y;
    a[2] = words.high.x;
    a[3] = words.high.y;
  }

  DEVICE static void quick_codes(uint2 codes, u32 b[2]) {
    b[0] = codes.x;
    b[1] = codes.y;
  }

  DEVICE static void exact(const Words &words, const u32 *, u32 t, u32, u32 a[4]) { quick(words, t, 0, a); }

  // The block scales of both rows, of their bytes.
  DEVICE static void scales(u32 bytes, float to[2]) { signed_bytes(bytes, to); }
};

MATVEC(chaski_matvec_q8, Q8)
MATMUL(chaski_matmul_q8, Q8)
