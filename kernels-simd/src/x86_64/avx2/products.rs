//! Products of unpacked blocks and activations by `maddubs`, and the loops around them.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_cvtepi32_ps, _mm256_fmadd_ps,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_ps,
    _mm256_setzero_si256, _mm256_sign_epi8,
};

use chaski_quant::{ActRows, BLOCK, TILE_ROWS, TileRun};

use super::{
    load::{broadcast_codes, broadcast_pair, keep_order},
    panel::{
        ActRow, BOTH, CHUNK, MIN_PART, PanelBlock, ROWS, ROWS_BYTES, end_half, first_half,
        load_sums, minus_offset, scale_rows, store_sums,
    },
};

super::sweep::sweeps!("avx2,fma,f16c", ROWS);

/// Products of pairs in 16 bits, `SUMS` vectors of which still fit, then of fours in 32 bits.
///
/// Where the block has its values in both forms (`V = 16`) the activations take their signs, and
/// the magnitudes are multiplied.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_groups<
    const V: usize,
    const S: usize,
    const SUMS: usize,
    const N: usize,
    const H: usize,
    const I: usize,
>(
    block: &PanelBlock<V, S>,
    rows: &[ActRow<'_>; N],
    b: usize,
    isum: &mut [[__m256i; 2]; N],
) {
    let ones = _mm256_set1_epi16(1);
    for first in 0..8 / S / SUMS {
        let first = I * 8 / S + first * SUMS;
        for i in 0..N {
            let mut pairs = [_mm256_setzero_si256(); 2];
            for g in 0..SUMS {
                let x = broadcast_codes(&rows[i].codes[b], first + g);
                for half in first_half(H)..end_half(H) {
                    let x = if V == 16 {
                        _mm256_sign_epi8(x, block.values[8 + first + g][half])
                    } else {
                        x
                    };
                    let pair = _mm256_maddubs_epi16(block.values[first + g][half], x);
                    pairs[half] = if g == 0 {
                        pair
                    } else {
                        _mm256_add_epi16(pairs[half], pair)
                    };
                }
            }
            for half in first_half(H)..end_half(H) {
                let fours = _mm256_madd_epi16(pairs[half], ones);
                isum[i][half] = keep_order::<N>(_mm256_add_epi32(isum[i][half], fours));
            }
        }
    }
}
