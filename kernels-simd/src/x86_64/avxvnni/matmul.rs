//! The kernels of the quantised types, with the dot product left open. The loops are those of the
//! level `avx2`.

/// Kernels for CPUs with `$features`, whose dot product is `$dot`.
macro_rules! kernels {
    ($features:literal, $dot:ident) => {
        use std::arch::x86_64::{
            __m256, __m256i, _mm256_add_epi32, _mm256_cvtepi32_ps, _mm256_fmadd_ps,
            _mm256_madd_epi16, _mm256_mul_ps, _mm256_set1_ps, _mm256_setzero_si256, $dot,
        };

        use chaski_quant::{ActRows, BLOCK, QuantType, TILE_ROWS, TileRun};

        use crate::x86_64::avx2::{
            load::{broadcast_codes, broadcast_pair, keep_order},
            matmul_q3, matmul_q4, matmul_q4h, matmul_q5, matmul_q6, matmul_q8,
            panel::{
                ActRow, BOTH, CHUNK, MIN_PART, PanelBlock, ROWS, ROWS_BYTES, end_half, first_half,
                load_sums, minus_offset, scale_rows, store_sums,
            },
        };

        crate::x86_64::avx2::sweep::sweeps!($features, 2 * ROWS);

        /// Products of fours straight into 32 bits; `SUMS` has no meaning here.
        #[inline]
        #[target_feature(enable = $features)]
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
            // Few sums would wait for each other: every other group has sums of its own.
            let mut odd = [[_mm256_setzero_si256(); 2]; N];
            for g in I * 8 / S..(I + 1) * 8 / S {
                for i in 0..N {
                    let x = broadcast_codes(&rows[i].codes[b], g);
                    for half in first_half(H)..end_half(H) {
                        let sums = if N <= 2 && g % 2 == 1 {
                            &mut odd
                        } else {
                            &mut *isum
                        };
                        let sum = &mut sums[i][half];
                        *sum = keep_order::<N>($dot(*sum, block.values[g][half], x));
                    }
                }
            }
            if N <= 2 {
                for i in 0..N {
                    for half in first_half(H)..end_half(H) {
                        isum[i][half] = _mm256_add_epi32(isum[i][half], odd[i][half]);
                    }
                }
            }
        }

        /// See [`chaski_quant::scalar::matmul`].
        #[target_feature(enable = $features)]
        pub(super) fn matmul_q3(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
            const BYTES: usize = QuantType::Q3.tile_block_bytes();
            sweep::<BYTES, 8, 1, 1, 16>(w, x, out, |block, half, unpacked| {
                matmul_q3::unpack(block, half, unpacked)
            });
        }

        /// See [`chaski_quant::scalar::matmul`].
        #[target_feature(enable = $features)]
        pub(super) fn matmul_q4(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
            const BYTES: usize = QuantType::Q4.tile_block_bytes();
            sweep::<BYTES, 8, 1, 1, 32>(w, x, out, |block, half, unpacked| {
                matmul_q4::unpack(block, half, unpacked)
            });
        }

        /// See [`chaski_quant::scalar::matmul`].
        #[target_feature(enable = $features)]
        pub(super) fn matmul_q4h(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
            const BYTES: usize = QuantType::Q4H.tile_block_bytes();
            sweep::<BYTES, 8, 2, 1, 32>(w, x, out, |block, half, unpacked| {
                matmul_q4h::unpack(block, half, unpacked)
            });
        }

        /// See [`chaski_quant::scalar::matmul`].
        #[target_feature(enable = $features)]
        pub(super) fn matmul_q5(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
            const BYTES: usize = QuantType::Q5.tile_block_bytes();
            sweep::<BYTES, 8, 1, 1, 16>(w, x, out, |block, half, unpacked| {
                matmul_q5::unpack(block, half, unpacked)
            });
        }

        /// See [`chaski_quant::scalar::matmul`].
        #[target_feature(enable = $features)]
        pub(super) fn matmul_q6(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
            const BYTES: usize = QuantType::Q6.tile_block_bytes();
            sweep::<BYTES, 8, 1, 1, 32>(w, x, out, |block, half, unpacked| {
                matmul_q6::unpack(block, half, unpacked)
            });
        }

        /// See [`chaski_quant::scalar::matmul`].
        #[target_feature(enable = $features)]
        pub(super) fn matmul_q8(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
            const BYTES: usize = QuantType::Q8.tile_block_bytes();
            sweep::<BYTES, 8, 1, 1, 128>(w, x, out, |block, half, unpacked| {
                matmul_q8::unpack_unsigned(block, half, unpacked)
            });
        }
    };
}

pub(super) use kernels;
