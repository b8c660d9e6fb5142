// Attention over a cache of 8-bit codes.
#include "attend_rows.h"
#include "attend_slots.h"

KERNEL_BOUNDS(chaski_attend_q8, AttendArgs, 256, 2) {
  SHARED(u8, memory);
  attend<KvQ8>(args, memory);
}

// 128 threads for heads of up to 128 channels, else 256.
KERNEL_BOUNDS(chaski_attend_rows_q8, AttendRowsArgs, 256, 1) {
  SHARED(u8, memory);
  attend_rows<KvQ8>(args, memory);
}
