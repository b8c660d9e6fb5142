//! Quantised tiles times rows of activations: the loops that all types share, on all levels of 256
//! bits.
//!
//! ```text
//! few rows       for each tile, each 4 rows of activations, each block:
//!                  unpack the block, add 16 rows by 4 sums
//! more rows      for each part of the rows, which stays in the second cache:
//!                  for each tile, each chunk of its blocks:
//!                    unpack the chunk into a panel, which stays in the first cache
//!                    for each 4 rows of activations, each block: add 16 rows by 4 sums
//! ```
//!
//! Codes of activations are broadcast four at a time, for both halves of the tile; a vector of
//! weights serves four rows. Between two chunks the sums of a row wait in `out`: a chain of fused
//! steps that is stored and loaded is the same chain.
//!
//! A macro, since the instructions that a function may use are an attribute with a literal, and a
//! closure is inlined only into a function that has the instructions of the one around the closure.

/// Defines `sweep` for CPUs with `$features`, to which a panel pays for more than `$few` rows (blocks
/// of 8 groups).
///
/// `add_groups::<V, S, SUMS, N, H, I>(block, rows, b, isum)`, which must be in scope, adds to `isum`
/// the products of those groups that scale `I` of the block belongs to with block `b` of the rows.
macro_rules! sweeps {
    ($features:literal, $few:expr) => {
        /// Every tile of `w` times every row of `x`.
        ///
        /// * `unpack(block, half, unpacked)`: of a tile block of `B` bytes, rows `8 half .. 8 half + 8`.
        /// * `SUMS`: what `add_groups` makes of it.
        /// * `OFFSET`: what the unsigned values have too much.
        #[inline]
        #[target_feature(enable = $features)]
        pub(super) fn sweep<
            const B: usize,
            const V: usize,
            const S: usize,
            const SUMS: usize,
            const OFFSET: i16,
        >(
            w: &TileRun<'_>,
            x: &ActRows<'_>,
            out: &mut [f32],
            unpack: impl Fn(&[u8; B], usize, &mut PanelBlock<V, S>) + Copy,
        ) {
            // Blocks of 16 groups are longer to store than to unpack twice.
            let few = if V == 16 { 2 * ROWS } else { $few };
            if x.n_rows() > few {
                return panel_sweep::<B, V, S, SUMS, OFFSET>(w, x, out, unpack);
            }
            let ahead = $crate::x86_64::fetch::distance(x.n_rows());
            for (i, out) in out.chunks_exact_mut(x.n_rows() * TILE_ROWS).enumerate() {
                let (scales, blocks) = w.tile(i).split_at(4 * TILE_ROWS);
                let blocks = &blocks.as_chunks().0[..w.n_blocks()];
                for (i, out) in out.chunks_mut(ROWS * TILE_ROWS).enumerate() {
                    let t = i * ROWS;
                    match out.len() / TILE_ROWS {
                        1 => few_rows::<B, V, S, SUMS, OFFSET, 1>(blocks, x, t, out, ahead, unpack),
                        2 => few_rows::<B, V, S, SUMS, OFFSET, 2>(blocks, x, t, out, ahead, unpack),
                        3 => few_rows::<B, V, S, SUMS, OFFSET, 3>(blocks, x, t, out, ahead, unpack),
                        _ => few_rows::<B, V, S, SUMS, OFFSET, ROWS>(
                            blocks, x, t, out, ahead, unpack,
                        ),
                    }
                }
                scale_rows(scales, out);
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn panel_sweep<
            const B: usize,
            const V: usize,
            const S: usize,
            const SUMS: usize,
            const OFFSET: i16,
        >(
            w: &TileRun<'_>,
            x: &ActRows<'_>,
            out: &mut [f32],
            unpack: impl Fn(&[u8; B], usize, &mut PanelBlock<V, S>) + Copy,
        ) {
            let mut panel = [PanelBlock::zero(); CHUNK];
            // Blocks of 16 groups are twice as long.
            let chunk = CHUNK * 8 / V;
            let (n_rows, row_bytes) = (x.n_rows(), x.n_blocks() * BLOCK);
            let part = (ROWS_BYTES / row_bytes)
                .max(MIN_PART)
                .next_multiple_of(ROWS);
            for start in (0..n_rows).step_by(part) {
                let end = (start + part).min(n_rows);
                for i in 0..w.n_tiles() {
                    let out =
                        &mut out[i * n_rows * TILE_ROWS..][start * TILE_ROWS..end * TILE_ROWS];
                    let (scales, blocks) = w.tile(i).split_at(4 * TILE_ROWS);
                    let blocks = &blocks.as_chunks().0[..w.n_blocks()];
                    for (c, blocks) in blocks.chunks(chunk).enumerate() {
                        let panel = &mut panel[..blocks.len()];
                        for (panel, block) in panel.iter_mut().zip(blocks) {
                            unpack(block, 0, panel);
                            unpack(block, 1, panel);
                        }
                        let first = c * chunk;
                        for (i, out) in out.chunks_mut(ROWS * TILE_ROWS).enumerate() {
                            let t = start + i * ROWS;
                            match out.len() / TILE_ROWS {
                                1 => panel_rows::<V, S, SUMS, OFFSET, 1>(panel, x, t, first, out),
                                2 => panel_rows::<V, S, SUMS, OFFSET, 2>(panel, x, t, first, out),
                                3 => panel_rows::<V, S, SUMS, OFFSET, 3>(panel, x, t, first, out),
                                _ => {
                                    panel_rows::<V, S, SUMS, OFFSET, ROWS>(panel, x, t, first, out);
                                }
                            }
                        }
                    }
                    scale_rows(scales, out);
                }
            }
        }

        /// A panel times rows `t..t + N` of the activations, from block `first` on. `out`: `[N, 16]`.
        #[inline]
        #[target_feature(enable = $features)]
        fn panel_rows<
            const V: usize,
            const S: usize,
            const SUMS: usize,
            const OFFSET: i16,
            const N: usize,
        >(
            panel: &[PanelBlock<V, S>],
            x: &ActRows<'_>,
            t: usize,
            first: usize,
            out: &mut [f32],
        ) {
            let rows: [ActRow<'_>; N] = ActRow::parts(x, t, first, panel.len());
            let mut acc = load_sums(first, out);
            for (b, block) in panel.iter().enumerate() {
                add_block::<V, S, SUMS, OFFSET, N, BOTH>(block, &rows, b, &mut acc);
            }
            store_sums(acc, out);
        }

        /// A tile times rows `t..t + N` of the activations, without a panel. `out`: `[N, 16]`.
        #[inline]
        #[target_feature(enable = $features)]
        fn few_rows<
            const B: usize,
            const V: usize,
            const S: usize,
            const SUMS: usize,
            const OFFSET: i16,
            const N: usize,
        >(
            blocks: &[[u8; B]],
            x: &ActRows<'_>,
            t: usize,
            out: &mut [f32],
            ahead: usize,
            unpack: impl Fn(&[u8; B], usize, &mut PanelBlock<V, S>) + Copy,
        ) {
            let rows: [ActRow<'_>; N] = ActRow::parts(x, t, 0, blocks.len());
            let mut acc = load_sums(0, out);
            for (b, block) in blocks.iter().enumerate() {
                $crate::x86_64::fetch::fetch_beyond(block, ahead);
                let mut unpacked = PanelBlock::zero();
                unpack(block, 0, &mut unpacked);
                if N == 1 {
                    // There are not enough registers for both halves, and memory is read best in
                    // the order that the compiler then keeps.
                    add_block::<V, S, SUMS, OFFSET, N, 0>(&unpacked, &rows, b, &mut acc);
                    unpack(block, 1, &mut unpacked);
                    add_block::<V, S, SUMS, OFFSET, N, 1>(&unpacked, &rows, b, &mut acc);
                } else {
                    unpack(block, 1, &mut unpacked);
                    add_block::<V, S, SUMS, OFFSET, N, BOTH>(&unpacked, &rows, b, &mut acc);
                }
            }
            store_sums(acc, out);
        }

        /// Adds block `b` of `N` rows of activations times the rows of weights of half `H`, or of
        /// [`BOTH`], to `acc`.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_block<
            const V: usize,
            const S: usize,
            const SUMS: usize,
            const OFFSET: i16,
            const N: usize,
            const H: usize,
        >(
            block: &PanelBlock<V, S>,
            rows: &[ActRow<'_>; N],
            b: usize,
            acc: &mut [[__m256; 2]; N],
        ) {
            add_scale::<V, S, SUMS, OFFSET, N, H, 0>(block, rows, b, acc);
            if S == 2 {
                add_scale::<V, S, SUMS, OFFSET, N, H, 1>(block, rows, b, acc);
            }
        }

        /// As [`add_block`], the part of the block that scale `I` belongs to.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_scale<
            const V: usize,
            const S: usize,
            const SUMS: usize,
            const OFFSET: i16,
            const N: usize,
            const H: usize,
            const I: usize,
        >(
            block: &PanelBlock<V, S>,
            rows: &[ActRow<'_>; N],
            b: usize,
            acc: &mut [[__m256; 2]; N],
        ) {
            let mut isum = [[_mm256_setzero_si256(); 2]; N];
            if OFFSET != 0 {
                for i in 0..N {
                    let sums = broadcast_pair(rows[i].sums[b]);
                    isum[i] = [_mm256_madd_epi16(minus_offset(OFFSET, S, I), sums); 2];
                }
            }
            add_groups::<V, S, SUMS, N, H, I>(block, rows, b, &mut isum);
            for i in 0..N {
                let d = _mm256_set1_ps(rows[i].scales[b]);
                for half in first_half(H)..end_half(H) {
                    let scale = _mm256_mul_ps(block.scales[I][half], d);
                    let isum = _mm256_cvtepi32_ps(isum[i][half]);
                    acc[i][half] = _mm256_fmadd_ps(isum, scale, acc[i][half]);
                }
            }
        }
    };
}

pub(in crate::x86_64) use sweeps;
