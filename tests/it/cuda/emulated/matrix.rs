//! Matrices times rows of activations, and how `mma` finds the weights of a block.

use chaski::backend::cuda::{
    args::{Kernel, MATVEC_ROWS, MatrixArgs, MatrixPart, PARTS, code_position, matrix_launch},
    device::{DeviceInfo, Launch},
};
use chaski_quant::{BLOCK, QuantType, TILE_ROWS, TensorLayout, tile};

use super::{Case, Random};

/// How the codes and scales of a matrix are drawn.
#[derive(Clone, Copy, Debug)]
enum Weights {
    /// Anything.
    Any,
    /// The largest magnitudes, of one sign in a row.
    Largest,
}

/// A valid scale byte.
fn scale_byte(random: &mut Random, qtype: QuantType, weights: Weights) -> u8 {
    let shifted = matches!(qtype, QuantType::Q4 | QuantType::Q4H);
    let most = if shifted { 63 } else { 127 };
    let scale = match weights {
        Weights::Any => random.below(2 * most + 1) as i32 - most as i32,
        Weights::Largest => random.of(&[-(most as i32), most as i32]),
    };
    if shifted {
        tile::q4_scale_byte(scale as i8, random.one_in(2))
    } else {
        scale as i8 as u8
    }
}

/// Tiles of a quantised type, with whatever between them and in their padding.
fn quantized(
    random: &mut Random,
    layout: &TensorLayout,
    stride: usize,
    weights: Weights,
) -> Vec<u8> {
    let qtype = layout.qtype();
    let mut bytes = random.bytes((layout.n_tiles() - 1) * stride + layout.tile_bytes());
    for i in 0..layout.n_tiles() {
        let bytes = &mut bytes[i * stride..][..layout.tile_bytes()];
        let (header, blocks) = bytes.split_at_mut(qtype.tile_header_bytes());
        for (to, scale) in header
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip(random.floats(TILE_ROWS, 0.01))
        {
            *to = scale.to_le_bytes();
        }
        let blocks = blocks.chunks_exact_mut(qtype.tile_block_bytes());
        for block in blocks.take(layout.n_blocks()) {
            let scales = tile::scales_per_block(qtype) * TILE_ROWS;
            block[..scales].fill_with(|| scale_byte(random, qtype, weights));
            let codes: &[u8] = match (qtype, weights) {
                (QuantType::Q8, Weights::Largest) => &[127, 129],
                // -128 is no code.
                (QuantType::Q8, Weights::Any) => {
                    block[scales..]
                        .iter_mut()
                        .filter(|c| **c == 128)
                        .for_each(|c| *c = 0);
                    continue;
                }
                (_, Weights::Any) => continue,
                // All bits of nibbles and of upper bits.
                _ => &[0, 255],
            };
            block[scales..].fill(random.of(codes));
        }
    }
    bytes
}

/// Tiles of a float type.
fn floats(random: &mut Random, layout: &TensorLayout, stride: usize) -> Vec<u8> {
    let mut bytes = random.bytes((layout.n_tiles() - 1) * stride + layout.tile_bytes());
    for i in 0..layout.n_tiles() {
        let weights = &mut bytes[i * stride..][..layout.tile_bytes()];
        let n = TILE_ROWS * layout.cols_padded();
        let numbers = random.floats(n, 1.0);
        for (k, x) in numbers.into_iter().enumerate() {
            match layout.qtype() {
                QuantType::F32 => weights[4 * k..][..4].copy_from_slice(&x.to_le_bytes()),
                QuantType::F16 => {
                    let bits = half::f16::from_f32(x).to_le_bytes();
                    weights[2 * k..][..2].copy_from_slice(&bits);
                }
                _ => {
                    let bits = half::bf16::from_f32(x).to_le_bytes();
                    weights[2 * k..][..2].copy_from_slice(&bits);
                }
            }
        }
    }
    bytes
}

/// A matrix, its bias and residual, and room for its products.
fn part(
    case: &mut Case,
    random: &mut Random,
    qtype: QuantType,
    rows: usize,
    n_blocks: usize,
) -> MatrixPart {
    // One group, or several that are padded each.
    let (row_group, groups) = match random.below(3) {
        0 => (1 + random.below(40), 1 + random.below(4)),
        1 => (16 * (1 + random.below(6)), 1),
        _ => (1 + random.below(170), 1),
    };
    let n_out = row_group * groups;
    let layout = TensorLayout::grouped(qtype, n_out, n_blocks * BLOCK, row_group).unwrap();
    let stride = layout.tile_bytes() + random.of(&[0, 0, 64, layout.tile_bytes()]);
    let bytes = if qtype.is_quantized() {
        let weights = random.of(&[Weights::Any, Weights::Any, Weights::Largest]);
        quantized(random, &layout, stride, weights)
    } else {
        floats(random, &layout, stride)
    };
    let out_stride = n_out + random.of(&[0, 0, 1, 7]);
    let out = random.floats(rows * out_stride, 1.0);
    let mut part = MatrixPart {
        tiles: case.bytes("tiles", &bytes),
        stride: stride as u64,
        out: case.floats("out", &out),
        out_stride: out_stride as u32,
        n_tiles: layout.n_tiles() as u32,
        tiles_per_group: layout.tiles_per_group() as u32,
        row_group: row_group as u32,
        ..MatrixPart::default()
    };
    if random.one_in(2) {
        part.bias = case.floats("bias", &random.floats(n_out, 1.0));
    }
    part.residual = match random.below(3) {
        0 => 0,
        1 => part.out,
        _ => case.floats("residual", &random.floats(rows * out_stride, 1.0)),
    };
    part
}

/// Rows of codes, with their scales and sums.
fn activations(case: &mut Case, random: &mut Random, args: &mut MatrixArgs) {
    let n = (args.rows * args.n_blocks) as usize;
    let (mut codes, mut sums) = (vec![0; n * BLOCK], Vec::with_capacity(4 * n));
    for block in codes.as_chunks_mut::<BLOCK>().0 {
        let most = random.of(&[127, 127, 3, 0]);
        let largest = random.one_in(4);
        let mut halves = [0_i16; 2];
        for k in 0..BLOCK {
            let code = match largest {
                true => random.of(&[-127, 127]),
                false => random.below(2 * most + 1) as i32 - most as i32,
            };
            block[code_position(k)] = code as i8 as u8;
            halves[k / 16] += code as i16;
        }
        sums.extend(halves.iter().flat_map(|s| s.to_le_bytes()));
    }
    let size = random.of(&[1.0, 1e-30, 1e30]);
    args.codes = case.bytes("codes", &codes);
    args.scales = case.floats("scales", &random.floats(n, size));
    args.sums = case.bytes("sums", &sums);
}

/// A launch of some matrices of a type times so many rows, compared with the definition.
fn check(qtype: QuantType, rows: usize, seed: u64) {
    let Some(mut case) = Case::new() else {
        return;
    };
    let mut random = Random::new(seed);
    let n_blocks = match random.below(3) {
        0 => 1 + random.below(70),
        _ => 1 + random.below(18),
    };
    let mut args = MatrixArgs {
        rows: rows as u32,
        n_blocks: n_blocks as u32,
        ..MatrixArgs::default()
    };
    for i in 0..1 + random.below(PARTS) {
        args.parts[i] = part(&mut case, &mut random, qtype, rows, n_blocks);
    }
    if qtype.is_quantized() {
        activations(&mut case, &mut random, &mut args);
    } else {
        args.x = case.floats("x", &random.floats(rows * n_blocks * BLOCK, 2.0));
    }
    let device = DeviceInfo {
        name: "emulated".to_owned(),
        capability: (8, 0),
        multiprocessors: 1 + random.below(5) as u32,
        shared: random.of(&[99 << 10, 227 << 10]),
        memory: 1 << 30,
    };
    let (kernel, shape) = matrix_launch(qtype, &mut args, &device);
    let what = format!("seed {seed}: {kernel:?} {shape:?} {args:?}");
    case.check(&Launch::new(kernel, shape, &args), &what);
}

const QUANTIZED: [QuantType; 5] = [
    QuantType::Q4,
    QuantType::Q4H,
    QuantType::Q5,
    QuantType::Q6,
    QuantType::Q8,
];

#[test]
fn quantised_matrices_times_a_few_rows_are_as_defined() {
    for qtype in QUANTIZED {
        for rows in 1..=MATVEC_ROWS as usize {
            for seed in 0..4 {
                check(qtype, rows, 100 * rows as u64 + seed);
            }
        }
    }
}

#[test]
fn quantised_matrices_times_many_rows_are_as_defined() {
    for qtype in QUANTIZED {
        for (seed, rows) in [9, 16, 17, 40, 63, 64, 65, 96, 129, 190]
            .into_iter()
            .enumerate()
        {
            check(qtype, rows, 1000 + seed as u64);
        }
    }
}

#[test]
fn matrices_of_floats_are_as_defined() {
    for qtype in [QuantType::F32, QuantType::F16, QuantType::BF16] {
        for (seed, rows) in [1, 1, 1, 2, 2, 3, 4, 5, 8, 9, 16, 17, 40]
            .into_iter()
            .enumerate()
        {
            check(qtype, rows, 2000 + seed as u64);
        }
    }
}

/// The row and the column of A that byte `byte` of register `register` of a lane is, in `mma.m16n8k32` (PTX ISA, "Matrix
/// Fragments for mma.m16n8k32").
const fn place(lane: usize, register: usize, byte: usize) -> (usize, usize) {
    let (group, within) = (lane / 4, lane % 4);
    (
        group + register % 2 * 8,
        within * 4 + byte + register / 2 * 16,
    )
}

/// The row of a tile that a row of A is: neighbours are in one lane.
const fn tile_row(row: usize) -> usize {
    row % 8 * 2 + row / 8
}

#[test]
fn a_lane_finds_its_fragment_in_neighbouring_words_of_a_vector() {
    for qtype in QUANTIZED {
        let mut random = Random::new(7);
        let block = random.bytes(qtype.tile_block_bytes());
        let quants = &block[tile::scales_per_block(qtype) * TILE_ROWS..];
        for (lane, register, byte) in
            (0..32).flat_map(|l| (0..4).flat_map(move |r| (0..4).map(move |b| (l, r, b))))
        {
            let (row, k) = place(lane, register, byte);
            let want = tile::code(qtype, &block, tile_row(row), k);
            let (g, t) = (lane / 4, lane % 4);
            // Two words at 8 g: rows 2 g and 2 g + 1.
            let within = 8 * g + register % 2 * 4 + byte;
            let high = register / 2;
            let nibble = quants[64 * t + within] >> (4 * high) & 15;
            let got = match qtype {
                QuantType::Q4 | QuantType::Q4H => nibble,
                QuantType::Q5 => nibble | (quants[256 + within] >> (t + 4 * high) & 1) << 4,
                QuantType::Q6 => nibble | (quants[256 + 64 * high + within] >> (2 * t) & 3) << 4,
                _ => quants[64 * t + 256 * high + within],
            };
            assert_eq!(
                got, want,
                "{qtype}, lane {lane}, register {register}, byte {byte}"
            );
            // Words t and t + 4 of the activations stand together.
            let column = k / 4 % 4 * 8 + k / 16 * 4 + k % 4;
            assert_eq!(code_position(k), column);
        }
    }
}

#[test]
fn each_kernel_of_a_matrix_is_chosen_by_type_and_rows() {
    let device = DeviceInfo {
        name: String::new(),
        capability: (9, 0),
        multiprocessors: 132,
        shared: 227 << 10,
        memory: 1 << 30,
    };
    for qtype in QuantType::ALL.into_iter().filter(|t| *t != QuantType::Q3) {
        for (rows, n_tiles) in (1..=40)
            .chain([64, 65, 4096])
            .flat_map(|r| [(r, 1), (r, 8016)])
        {
            let mut args = MatrixArgs {
                rows,
                n_blocks: 128,
                ..MatrixArgs::default()
            };
            args.parts[0].n_tiles = n_tiles;
            let (kernel, shape) = matrix_launch(qtype, &mut args, &device);
            let want = match (qtype.is_quantized(), rows <= MATVEC_ROWS) {
                (false, _) => Kernel::MatrixFloat(qtype),
                (true, true) => Kernel::Matvec(qtype),
                (true, false) => Kernel::Matmul(qtype),
            };
            assert_eq!(kernel, want);
            assert!(
                shape.shared <= 99 << 10,
                "{kernel:?}, {rows} rows: {shape:?}"
            );
            if want == Kernel::Matvec(qtype) {
                // All of them have room at once.
                let each = shape.grid[0].div_ceil(132);
                assert!(each * (shape.shared + 1024) <= 228 << 10, "{shape:?}");
                assert!(n_tiles == 1 || each >= 2, "{shape:?}");
            }
            assert!(
                shape.grid[1] <= 65_535,
                "{kernel:?}, {rows} rows: {shape:?}"
            );
        }
    }
}
