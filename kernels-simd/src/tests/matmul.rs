//! Weights times activations, and weights as numbers.

use chaski_quant::{ActRows, Acts, BLOCK, QuantType, TILE_ROWS, TensorLayout, TileRun, scalar};
use proptest::prelude::*;

use super::{assert_same, random_cases};
use crate::{
    Kernels,
    testing::{Fill, Rng, acts, code_range, random_tiles, tiles},
};

/// The tiles of `packed`, moved `gap` bytes apart; the gaps hold ones.
fn spread(layout: &TensorLayout, packed: &[u8], gap: usize) -> Box<[u8]> {
    let mut bytes = Vec::new();
    for tile in packed.chunks_exact(layout.tile_bytes()) {
        if !bytes.is_empty() {
            bytes.resize(bytes.len() + gap, 0xff);
        }
        bytes.extend_from_slice(tile);
    }
    bytes.into_boxed_slice()
}

fn check(layout: &TensorLayout, packed: &[u8], gap: usize, x: &ActRows<'_>, what: &str) {
    let bytes = spread(layout, packed, gap);
    let w = TileRun::new(layout, &bytes, layout.n_tiles(), layout.tile_bytes() + gap);
    let n = layout.n_tiles() * x.n_rows() * TILE_ROWS;
    let mut want = vec![f32::NAN; n];
    scalar::matmul(&w, x, &mut want);
    for kernels in Kernels::available() {
        let mut got = vec![f32::NAN; n].into_boxed_slice();
        kernels.matmul(&w, x, &mut got);
        let (qtype, blocks, rows) = (layout.qtype(), x.n_blocks(), x.n_rows());
        let name = kernels.name();
        assert_same(
            &got,
            &want,
            format_args!("{name}: {qtype}, {blocks} blocks, {rows} rows, {what}"),
        );
    }
}

fn layout(qtype: QuantType, n_tiles: usize, n_blocks: usize) -> TensorLayout {
    TensorLayout::new(qtype, n_tiles * TILE_ROWS, n_blocks * BLOCK).unwrap()
}

#[test]
fn every_shape_gives_the_oracles_bits() {
    for qtype in QuantType::ALL {
        for n_blocks in [1, 2, 3, 7, 18, 33] {
            let mut rng = Rng::new(n_blocks as u64);
            let layout = layout(qtype, 3, n_blocks);
            let (packed, x) = (
                random_tiles(&mut rng, &layout),
                acts(&mut rng, 13, n_blocks, Fill::Random),
            );
            // The oracle's rows do not depend on each other, so one result serves all counts.
            let w = TileRun::new(&layout, &packed, 3, layout.tile_bytes());
            let mut want = vec![f32::NAN; 3 * 13 * TILE_ROWS];
            scalar::matmul(&w, &x.rows(13), &mut want);
            for kernels in Kernels::available() {
                for (n_tiles, rows) in (0..=3).flat_map(|n| (0..=13).map(move |rows| (n, rows))) {
                    let mut got = vec![f32::NAN; n_tiles * rows * TILE_ROWS];
                    kernels.matmul(&w.slice(3 - n_tiles..3), &x.rows(rows), &mut got);
                    for tile in 0..n_tiles {
                        let got = &got[tile * rows * TILE_ROWS..][..rows * TILE_ROWS];
                        let first = (3 - n_tiles + tile) * 13 * TILE_ROWS;
                        let name = kernels.name();
                        assert_same(
                            got,
                            &want[first..][..rows * TILE_ROWS],
                            format_args!("{name}: {qtype}, {n_blocks} blocks, {rows} rows"),
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn long_rows_in_several_parts_give_the_oracles_bits() {
    // More bytes of activations than kernels take at a time, and a last part of another length.
    for qtype in QuantType::ALL.into_iter().filter(|t| t.is_quantized()) {
        let mut rng = Rng::new(11);
        let layout = layout(qtype, 2, 257);
        let packed = random_tiles(&mut rng, &layout);
        let x = acts(&mut rng, 37, 257, Fill::Random);
        check(&layout, &packed, 64, &x.rows(37), "several parts");
    }
}

#[test]
fn many_rows_of_several_tiles_give_the_oracles_bits() {
    // AVX-512 takes two tiles, 16 blocks and 256 rows at a time, and which of them first depends on the size of the
    // activations: a last tile alone, a last part of one block, a last chunk of one row and of two, in either order.
    for (i, (n_tiles, n_blocks, rows)) in [
        (3, 17, 17),
        (5, 1, 258),
        (3, 33, 257),
        (5, 48, 19),
        (4, 16, 21),
        (3, 481, 18),
    ]
    .into_iter()
    .enumerate()
    {
        for qtype in QuantType::ALL {
            if n_tiles * n_blocks * rows > 20_000 && !matches!(qtype, QuantType::Q4 | QuantType::Q6)
            {
                continue; // the loops are shared; the oracle takes long without optimisation
            }
            let mut rng = Rng::new(i as u64);
            let layout = layout(qtype, n_tiles, n_blocks);
            let packed = random_tiles(&mut rng, &layout);
            let x = acts(&mut rng, rows, n_blocks, Fill::Random);
            check(
                &layout,
                &packed,
                64,
                &x.rows(rows),
                &format!("{n_tiles} tiles"),
            );
        }
    }
}

#[test]
fn extreme_codes_and_scales_give_the_oracles_bits() {
    for qtype in QuantType::ALL {
        let layout = layout(qtype, 1, 3);
        for codes in Fill::ALL {
            for (i, x_fill) in Fill::ALL.into_iter().enumerate() {
                let mut rng = Rng::new(i as u64);
                let x = acts(&mut rng, 9, 3, x_fill);
                let x = x.rows(9);
                match x_fill {
                    Fill::Low => assert_eq!(code_range(&x), [-127, 0]),
                    Fill::High => assert_eq!(code_range(&x), [0, 127]),
                    _ => {}
                }
                for scales in Fill::ALL {
                    let row_scales = Fill::ALL[rng.below(4)];
                    let packed = tiles(&mut rng, &layout, codes, scales, row_scales);
                    let what = format!(
                        "{codes:?} codes, {scales:?} and {row_scales:?} scales, {x_fill:?} x"
                    );
                    check(&layout, &packed, 0, &x, &what);
                }
            }
        }
    }
}

#[test]
fn codes_of_mixed_ends_give_the_oracles_bits() {
    // Random signs of 127 in the activations, ends of the codebook in the weights: the largest sums
    // that 16 bits have to hold, in every pairing.
    for qtype in QuantType::ALL.into_iter().filter(|t| t.is_quantized()) {
        let mut rng = Rng::new(7);
        let layout = layout(qtype, 1, 40);
        let low = tiles(&mut rng, &layout, Fill::Low, Fill::Random, Fill::Random);
        let high = tiles(&mut rng, &layout, Fill::High, Fill::High, Fill::Random);
        let mut x = Acts::new(9, 40);
        for t in 0..9 {
            x.floats_mut(t)
                .fill_with(|| if rng.below(4) == 0 { -1.0 } else { 1.0 });
            scalar::quantize_row(&mut x.row_mut(t));
        }
        let mut packed: Vec<u8> = low
            .iter()
            .zip(&high)
            .map(|(a, b)| if rng.below(8) == 0 { *a } else { *b })
            .collect();
        packed[..64].copy_from_slice(&high[..64]);
        for rows in [1, 3, 9] {
            check(&layout, &packed, 64, &x.rows(rows), "mixed ends");
        }
    }
}

#[test]
fn activations_that_are_not_finite_give_no_finite_output() {
    for qtype in QuantType::ALL {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut rng = Rng::new(3);
            let layout = layout(qtype, 1, 2);
            let packed = random_tiles(&mut rng, &layout);
            let mut x = acts(&mut rng, 9, 2, Fill::High);
            x.floats_mut(4)[37] = bad;
            for kernels in Kernels::available() {
                kernels.quantize_row(x.row_mut(4));
                let w = TileRun::new(&layout, &packed, 1, layout.tile_bytes());
                let mut out = vec![0.0; 9 * TILE_ROWS];
                kernels.matmul(&w, &x.rows(9), &mut out);
                for (t, out) in out.chunks_exact(TILE_ROWS).enumerate() {
                    // A float weight may be zero, but zero times either is NaN too.
                    let finite = out.iter().filter(|v| v.is_finite()).count();
                    let want = if t == 4 { 0 } else { TILE_ROWS };
                    assert_eq!(
                        finite,
                        want,
                        "{}: {qtype}, row {t} with {bad}",
                        kernels.name()
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(random_cases(96))]

    #[test]
    fn random_shapes_give_the_oracles_bits(
        qtype in prop::sample::select(&QuantType::ALL[..]),
        n_blocks in 1_usize..70,
        rows in 1_usize..28,
        n_tiles in 1_usize..3,
        gap in prop::sample::select(&[0_usize, 64, 1, 4096][..]),
        seed: u64,
    ) {
        let mut rng = Rng::new(seed);
        let layout = layout(qtype, n_tiles, n_blocks);
        let packed = random_tiles(&mut rng, &layout);
        let x = acts(&mut rng, rows, n_blocks, Fill::Random);
        check(&layout, &packed, gap, &x.rows(rows), &format!("gap {gap}, seed {seed}"));
    }

    #[test]
    fn rows_as_numbers_are_the_oracles(
        cols in 1_usize..200,
        fills in prop::array::uniform3(prop::sample::select(&Fill::ALL[..])),
        seed: u64,
    ) {
        for qtype in QuantType::ALL {
            let mut rng = Rng::new(seed);
            let layout = TensorLayout::new(qtype, TILE_ROWS, cols).unwrap();
            let tile = tiles(&mut rng, &layout, fills[0], fills[1], fills[2]);
            for row in 0..TILE_ROWS {
                let mut want = vec![f32::NAN; cols];
                scalar::dequantize_row(&layout, &tile, row, &mut want);
                for kernels in Kernels::available() {
                    let mut got = vec![f32::NAN; cols];
                    kernels.dequantize_row(&layout, &tile, row, &mut got);
                    let name = kernels.name();
                    assert_same(&got, &want, format_args!("{name}: {qtype}, row {row}"));
                }
            }
        }
    }
}
