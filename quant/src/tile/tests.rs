use half::f16;
use proptest::prelude::*;

use super::*;
use crate::{TensorLayout, quantize::Quantizer};

const QUANTIZED: [(QuantType, u8); 6] = [
    (QuantType::Q3, 3),
    (QuantType::Q4, 4),
    (QuantType::Q4H, 4),
    (QuantType::Q5, 5),
    (QuantType::Q6, 6),
    (QuantType::Q8, 8),
];

#[test]
fn every_bit_of_the_quants_belongs_to_one_code() {
    for (qtype, bits) in QUANTIZED {
        let n_scales = scales_per_block(qtype) * TILE_ROWS;
        let mut seen = vec![0_u8; qtype.tile_block_bytes()];
        for row in 0..TILE_ROWS {
            for k in 0..BLOCK {
                let mut block = vec![0; seen.len()];
                set_code(qtype, &mut block, row, k, (0xff_u16 >> (8 - bits)) as u8);
                let ones: u32 = block.iter().map(|b| b.count_ones()).sum();
                assert_eq!(ones, u32::from(bits), "{qtype} row {row}, weight {k}");
                for (seen, byte) in seen.iter_mut().zip(&block) {
                    assert_eq!(*seen & byte, 0, "{qtype} row {row}, weight {k}");
                    *seen |= byte;
                }
            }
        }
        assert!(seen[..n_scales].iter().all(|b| *b == 0), "{qtype}");
        assert!(seen[n_scales..].iter().all(|b| *b == 0xff), "{qtype}");
    }
}

#[test]
fn codes_lie_where_the_layout_says() {
    // Row 5, weight 22 = group 5, byte 2 of the row's four.
    let at = |qtype, code| {
        let mut block = vec![0; qtype_bytes(qtype)];
        set_code(qtype, &mut block, 5, 22, code);
        let found = block.iter().enumerate().filter(|(_, b)| **b != 0);
        found.map(|(i, b)| (i, *b)).collect::<Vec<_>>()
    };
    let lane = 4 * 5 + 2;
    assert_eq!(at(QuantType::Q3, 5), [(16 + 64 + lane, 5 << 3)]);
    assert_eq!(at(QuantType::Q4, 0xa), [(16 + 64 + lane, 0xa0)]);
    assert_eq!(at(QuantType::Q4H, 0xa), [(32 + 64 + lane, 0xa0)]);
    let q5 = [(16 + 64 + lane, 0xa0), (16 + 256 + lane, 1 << 5)];
    assert_eq!(at(QuantType::Q5, 0x1a), q5);
    let q6 = [(16 + 64 + lane, 0xa0), (16 + 256 + 64 + lane, 3 << 2)];
    assert_eq!(at(QuantType::Q6, 0x3a), q6);
    assert_eq!(at(QuantType::Q8, 0x9a), [(16 + 5 * 64 + lane, 0x9a)]);
    // The groups of Q3 that have no vector of their own.
    for (k, low, high) in [(14, 0, 1 << 6), (30, 64, 1 << 7)] {
        let mut block = vec![0; qtype_bytes(QuantType::Q3)];
        set_code(QuantType::Q3, &mut block, 5, k, 7);
        assert_eq!(block[16 + low + lane], 3 << 6, "weight {k}");
        assert_eq!(block[16 + 128 + lane], high, "weight {k}");
    }
}

const fn qtype_bytes(qtype: QuantType) -> usize {
    qtype.tile_block_bytes()
}

#[test]
fn scale_bytes_round_trip() {
    for v in -63..=63 {
        for shift in [false, true] {
            assert_eq!(q4_scale(q4_scale_byte(v, shift)), (v, i8::from(shift)));
        }
    }
    assert_eq!(
        (q4_scale_byte(0, false), q4_scale(0), q4_scale(1)),
        (0x80, (-64, 0), (-64, 1))
    );
}

proptest! {
    #[test]
    fn codes_round_trip(index in 0..QUANTIZED.len(), raw in prop::collection::vec(any::<u8>(), 512)) {
        let (qtype, bits) = QUANTIZED[index];
        let codes: Vec<u8> = raw.iter().map(|c| c & (0xff_u16 >> (8 - bits)) as u8).collect();
        let mut block = vec![0; qtype.tile_block_bytes()];
        for (i, c) in codes.iter().enumerate() {
            set_code(qtype, &mut block, i / BLOCK, i % BLOCK, *c);
        }
        for (i, c) in codes.iter().enumerate() {
            prop_assert_eq!(code(qtype, &block, i / BLOCK, i % BLOCK), *c);
        }
    }
}

/// A valid tile of `n_rows` rows and 40 columns.
fn tile(qtype: QuantType, n_rows: usize) -> (TensorLayout, Vec<u8>) {
    let row: Vec<f32> = (0..40).map(|i| (i * 29 % 41) as f32 - 20.0).collect();
    let layout = TensorLayout::new(qtype, n_rows, 40).unwrap();
    let mut bytes = vec![0; layout.tile_bytes()];
    Quantizer::new(qtype)
        .quantize_tile(&vec![&row[..]; n_rows], &mut bytes)
        .unwrap();
    (layout, bytes)
}

#[test]
fn a_tile_of_another_length_is_refused() {
    for qtype in QuantType::ALL {
        let (layout, bytes) = tile(qtype, 2);
        assert_eq!(check_tile(&layout, 0, &bytes), Ok(()));
        for len in [0, 1, bytes.len() - 1] {
            let want = TileError::Length {
                expected: bytes.len(),
                len,
            };
            assert_eq!(check_tile(&layout, 0, &bytes[..len]), Err(want), "{qtype}");
        }
    }
}

#[test]
fn each_fault_of_a_tile_is_named() {
    let q4 = |qtype: QuantType| qtype.tile_block_bytes() + 64;
    let nan = f32::NAN.to_bits().to_le_bytes();
    struct Case {
        qtype: QuantType,
        at: usize,
        bytes: &'static [u8],
        want: TileError,
    }
    let case = |qtype, at, bytes: &'static [u8], want| Case {
        qtype,
        at,
        bytes,
        want,
    };
    let infinite = TileError::RowScale {
        row: 2,
        value: f32::INFINITY,
    };
    let scale = |row, col, value| TileError::BlockScale { row, col, value };
    let weight = |col, value| TileError::Weight { row: 1, col, value };
    let cases = [
        case(QuantType::Q5, 8, &[0, 0, 0x80, 0x7f], infinite),
        case(QuantType::Q3, 64 + 1, &[0], scale(1, 0, -64)),
        case(QuantType::Q3, q4(QuantType::Q3), &[1], scale(0, 32, -64)),
        case(QuantType::Q4, 64 + 1, &[0], scale(1, 0, -64)),
        case(QuantType::Q4, q4(QuantType::Q4), &[1], scale(0, 32, -64)),
        case(QuantType::Q4H, 64 + 16 + 2, &[1], scale(2, 16, -64)),
        case(QuantType::Q5, 64, &[0x80], scale(0, 0, -128)),
        case(QuantType::Q6, 64 + 2, &[0x80], scale(2, 0, -128)),
        case(QuantType::Q8, 64 + 1, &[0x80], scale(1, 0, -128)),
        case(
            QuantType::Q8,
            64 + 16 + 3 * 64 + 9,
            &[0x80],
            TileError::Code { row: 2, col: 13 },
        ),
        case(
            QuantType::F16,
            2 * (16 * 39 + 1) + 1,
            &[0x7c],
            weight(39, f32::INFINITY),
        ),
        case(
            QuantType::BF16,
            2 * 17,
            &[0x80, 0xff],
            weight(1, f32::NEG_INFINITY),
        ),
    ];
    for Case {
        qtype,
        at,
        bytes,
        want,
    } in cases
    {
        let (layout, mut tile) = tile(qtype, 3);
        // The infinities need the low byte of a 16-bit weight, too.
        if qtype == QuantType::F16 {
            tile[at - 1] = 0;
        }
        tile[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(check_tile(&layout, 0, &tile), Err(want), "{qtype}: {want}");
    }
    for qtype in [QuantType::F32, QuantType::Q6] {
        let (layout, mut tile) = tile(qtype, 3);
        tile[..4].copy_from_slice(&nan);
        let text = check_tile(&layout, 0, &tile).unwrap_err().to_string();
        assert!(
            text.contains("row 0") && text.contains("NaN"),
            "{qtype}: {text}"
        );
    }
}

#[test]
fn padding_must_be_zero() {
    for qtype in QuantType::ALL {
        let (layout, valid) = tile(qtype, 3);
        let (head, block) = (qtype.tile_header_bytes(), qtype.tile_block_bytes());
        let mut n_padding = 0;
        for at in 0..valid.len() {
            // A bit that no decoded weight depends on is padding, here where no scale is zero.
            for bit in 0..8 {
                let mut bytes = valid.clone();
                bytes[at] ^= 1 << bit;
                let decoded = crate::scalar::dequantize_tile(&layout, 0, &bytes);
                let before = crate::scalar::dequantize_tile(&layout, 0, &valid);
                let same = decoded
                    .iter()
                    .zip(&before)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                if same {
                    n_padding += 1;
                    let error = check_tile(&layout, 0, &bytes).unwrap_err();
                    // Codes are located by their block, all else by the byte.
                    let TileError::Padding { offset } = error else {
                        panic!("{qtype}: {error}")
                    };
                    let of_block = at >= head && offset == head + (at - head) / block * block;
                    assert!(
                        offset == at || of_block,
                        "{qtype}: byte {at}, said {offset}"
                    );
                }
            }
        }
        assert!(n_padding > 8 * 64, "{qtype}: {n_padding} bits of padding");
    }
}

#[test]
fn only_the_last_tile_of_a_group_has_padding_rows() {
    let layout = TensorLayout::grouped(QuantType::Q8, 40, 40, 20).unwrap();
    let (_, full) = tile(QuantType::Q8, 16);
    let (_, four) = tile(QuantType::Q8, 4);
    for index in 0..4 {
        let (own, other) = if index % 2 == 0 {
            (&full, &four)
        } else {
            (&four, &full)
        };
        assert_eq!(check_tile(&layout, index, own), Ok(()), "tile {index}");
        // Zero rows are rows, but rows are no padding.
        let refused = check_tile(&layout, index, other).is_err();
        assert_eq!(refused, index % 2 == 1, "tile {index}");
    }
}

#[test]
fn float_weights_that_are_finite_pass() {
    let (layout, mut bytes) = tile(QuantType::F16, 3);
    for bits in [f16::MAX.to_bits(), f16::MIN.to_bits(), 1, 0x8000] {
        bytes[..2].copy_from_slice(&bits.to_le_bytes());
        assert_eq!(check_tile(&layout, 0, &bytes), Ok(()), "{bits:#x}");
    }
}
