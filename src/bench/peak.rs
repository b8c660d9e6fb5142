//! The most products of 8-bit integers that a core can add up: loops of nothing but the instruction
//! that a SIMD level has for them, on registers.
#![allow(unsafe_code)] // calls of functions for instructions that the CPU was found to have

use std::hint::black_box;

/// Sums in flight: instructions of 4 cycles, two or three of which begin in each.
const CHAINS: usize = 12;
/// Rounds of all chains: some milliseconds.
const ROUNDS: u64 = 1 << 20;

/// The loop of a level, on a CPU that has its instructions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peak {
    /// Gives any number that depends on all sums.
    ///
    /// # Safety
    ///
    /// The CPU has the instructions of the loop. `Peak::of` alone makes a `Peak`, and looks.
    run: unsafe fn() -> i64,
    /// Products of one instruction.
    lanes: u64,
}

impl Peak {
    /// The loop of a level by its name.
    pub(super) fn of(level: &str) -> Option<Self> {
        imp::of(level)
    }

    /// Products of a [`run`](Self::run).
    pub(super) const fn products(self) -> u64 {
        ROUNDS * CHAINS as u64 * self.lanes
    }

    /// Runs the loop once.
    pub(super) fn run(self) -> i64 {
        // SAFETY: `of` found the instructions on this CPU.
        unsafe { (self.run)() }
    }
}

/// Operands that the compiler does not know.
fn operands() -> (i8, i8) {
    (black_box(3), black_box(2))
}

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::arch::{is_x86_feature_detected, x86_64::*};

    use super::{CHAINS, Peak, ROUNDS, operands};

    pub(super) fn of(level: &str) -> Option<Peak> {
        let has_512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        let has_256 = is_x86_feature_detected!("avx512vl") && has_512;
        if level.starts_with("avx512") && has_512 {
            return Some(Peak {
                run: dpbusd_512,
                lanes: 64,
            });
        }
        if level.starts_with("avxvnni") && is_x86_feature_detected!("avxvnni") {
            return Some(Peak {
                run: dpbusd_avx,
                lanes: 32,
            });
        }
        if level.starts_with("avxvnni") && has_256 {
            return Some(Peak {
                run: dpbusd_256,
                lanes: 32,
            });
        }
        (level == "avx2" && is_x86_feature_detected!("avx2")).then_some(Peak {
            run: maddubs,
            lanes: 32,
        })
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dpbusd_512() -> i64 {
        let (a, b) = operands();
        let (a, b) = (_mm512_set1_epi8(a), _mm512_set1_epi8(b));
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        let all = sums.into_iter().reduce(|x, y| _mm512_xor_si512(x, y));
        all.map_or(0, |x| i64::from(_mm512_reduce_add_epi32(x)))
    }

    /// The lanes as a number.
    #[target_feature(enable = "avx2")]
    fn fold(sums: [__m256i; CHAINS]) -> i64 {
        let all = sums.into_iter().reduce(|x, y| _mm256_xor_si256(x, y));
        all.map_or(0, |x| {
            _mm256_extract_epi64::<0>(x)
                ^ _mm256_extract_epi64::<1>(x)
                ^ _mm256_extract_epi64::<2>(x)
                ^ _mm256_extract_epi64::<3>(x)
        })
    }

    #[target_feature(enable = "avx2,avx512f,avx512vl,avx512vnni")]
    fn dpbusd_256() -> i64 {
        let (a, b) = operands();
        let (a, b) = (_mm256_set1_epi8(a), _mm256_set1_epi8(b));
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_epi32(*sum, a, b);
            }
        }
        fold(sums)
    }

    #[target_feature(enable = "avx2,avxvnni")]
    fn dpbusd_avx() -> i64 {
        let (a, b) = operands();
        let (a, b) = (_mm256_set1_epi8(a), _mm256_set1_epi8(b));
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
            }
        }
        fold(sums)
    }

    /// Products in pairs of 16 bits, added up in 16 bits: what a kernel adds to that, to stay
    /// exact, is its own cost. One operand changes, since the product of two that do not would be
    /// computed once.
    #[target_feature(enable = "avx2")]
    fn maddubs() -> i64 {
        let (a, b) = operands();
        let (a, b) = (_mm256_set1_epi8(a), _mm256_set1_epi8(b));
        let mut sums = [_mm256_set1_epi8(1); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_add_epi16(a, _mm256_maddubs_epi16(*sum, b));
            }
        }
        fold(sums)
    }
}

#[cfg(target_arch = "aarch64")]
mod imp {
    use std::arch::{aarch64::*, asm, is_aarch64_feature_detected};

    use super::{CHAINS, Peak, ROUNDS, operands};

    pub(super) fn of(level: &str) -> Option<Peak> {
        match level {
            "i8mm" if is_aarch64_feature_detected!("i8mm") => Some(Peak {
                run: smmla,
                lanes: 32,
            }),
            "dotprod" if is_aarch64_feature_detected!("dotprod") => Some(Peak {
                run: sdot,
                lanes: 16,
            }),
            "neon" => Some(Peak {
                run: smlal,
                lanes: 8,
            }),
            _ => None,
        }
    }

    #[target_feature(enable = "neon")]
    fn fold(sums: [int32x4_t; CHAINS]) -> i64 {
        sums.into_iter().map(|s| i64::from(vaddvq_s32(s))).sum()
    }

    #[target_feature(enable = "neon,i8mm")]
    fn smmla() -> i64 {
        let (a, b) = operands();
        let (a, b) = (vdupq_n_s8(a), vdupq_n_s8(b));
        let mut sums = [vdupq_n_s32(0); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                // SAFETY: registers only; the function has the feature.
                unsafe {
                    asm!(".arch_extension i8mm", "smmla {s:v}.4s, {a:v}.16b, {b:v}.16b",
                        s = inout(vreg) *sum, a = in(vreg) a, b = in(vreg) b,
                        options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        fold(sums)
    }

    #[target_feature(enable = "neon,dotprod")]
    fn sdot() -> i64 {
        let (a, b) = operands();
        let (a, b) = (vdupq_n_s8(a), vdupq_n_s8(b));
        let mut sums = [vdupq_n_s32(0); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                // SAFETY: registers only; the function has the feature.
                unsafe {
                    asm!(".arch_extension dotprod", "sdot {s:v}.4s, {a:v}.16b, {b:v}.16b",
                        s = inout(vreg) *sum, a = in(vreg) a, b = in(vreg) b,
                        options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        fold(sums)
    }

    /// Eight products added up in 16 bits.
    #[target_feature(enable = "neon")]
    fn smlal() -> i64 {
        let (a, b) = operands();
        let (a, b) = (vdup_n_s8(a), vdup_n_s8(b));
        let mut sums = [vdupq_n_s16(0); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                // SAFETY: registers only; every aarch64 target of Rust's has NEON. As an
                // instruction, since the compiler would multiply once and add.
                unsafe {
                    asm!("smlal {s:v}.8h, {a:v}.8b, {b:v}.8b",
                        s = inout(vreg) *sum, a = in(vreg) a, b = in(vreg) b,
                        options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        sums.into_iter().map(|s| i64::from(vaddvq_s16(s))).sum()
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod imp {
    use super::Peak;

    pub(super) fn of(_: &str) -> Option<Peak> {
        None
    }
}
