//! The level `avxvnni`: the 8-bit dot product `vpdpbusd` on 256 bits.
//!
//! Everything but the quantised matrices is the level `avx2`'s: the dot product takes unsigned times
//! signed bytes and adds four products to a lane of 32 bits, which is what `maddubs`, `madd` and two
//! additions do there. So weights are unsigned offset codes here too (Q8: code + 128), their panels
//! are the same, and the offset is taken off by the sums of the activations' codes.
//!
//! The instruction has two encodings: that of AVX-VNNI, and the older one of AVX-512 VNNI with VL.
//! `matmul` is the one source of both. A CPU that has AVX-VNNI takes the former, any other one with
//! AVX-512 VNNI and VL the latter. The tests run the encoding that the machine takes; no test has run
//! that of AVX-VNNI so far, since neither our machines nor qemu have it.

mod evex;
mod matmul;
mod vex;

use std::arch::is_x86_feature_detected;

use super::avx2;
use crate::{Kernels, Level, table::MatmulFn};

/// The table of the encoding that this CPU has.
pub(crate) fn table() -> Option<&'static Kernels> {
    if !avx2::is_available() {
        None
    } else if is_x86_feature_detected!("avxvnni") {
        Some(&VEX)
    } else if is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512vnni") {
        Some(&EVEX)
    } else {
        None
    }
}

/// AVX-VNNI.
static VEX: Kernels = with_matrices([
    vex::matmul_q4,
    vex::matmul_q4h,
    vex::matmul_q5,
    vex::matmul_q6,
    vex::matmul_q8,
    vex::matmul_q3,
]);

/// AVX-512 VNNI and VL.
static EVEX: Kernels = with_matrices([
    evex::matmul_q4,
    evex::matmul_q4h,
    evex::matmul_q5,
    evex::matmul_q6,
    evex::matmul_q8,
    evex::matmul_q3,
]);

/// The table of `avx2` with these kernels of the quantised types.
const fn with_matrices(quantised: [MatmulFn; 6]) -> Kernels {
    let [q4, q4h, q5, q6, q8, q3] = quantised;
    let avx2 = &avx2::TABLE;
    let [f32, f16, bf16, ..] = avx2.matmul;
    Kernels {
        level: Level::AvxVnni,
        matmul: [f32, f16, bf16, q4, q4h, q5, q6, q8, q3],
        quantize_row: avx2.quantize_row,
        rms_norm: avx2.rms_norm,
        rope: avx2.rope,
        swiglu: avx2.swiglu,
        add: avx2.add,
        store_key: avx2.store_key,
        store_value: avx2.store_value,
        attend_tile: avx2.attend_tile,
        merge: avx2.merge,
        finish: avx2.finish,
        dequantize_row: avx2.dequantize_row,
    }
}
