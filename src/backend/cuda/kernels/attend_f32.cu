// Attention over a cache of floats.
#include "attend_rows.h"
#include "attend_slots.h"

KERNEL_BOUNDS(chaski_attend_f32, AttendArgs, 256, 2) {
  SHARED(u8, memory);
  attend<KvF32>(args, memory);
}

// 128 threads for heads of up to 128 channels, else 256.
KERNEL_BOUNDS(chaski_attend_rows_f32, AttendRowsArgs, 256, 1) {
  SHARED(u8, memory);
  attend_rows<KvF32>(args, memory);
}
