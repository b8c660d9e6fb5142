//! Norm, SwiGLU and quantisation; rotation and the KV cache's writes.

use chaski::backend::cuda::{
    args::{
        Codes, Kernel, NormQuantizeArgs, PoolArgs, QuantizeArgs, RopeStoreArgs, SwigluArgs,
        kv_type_id,
    },
    device::Launch,
};
use chaski_quant::{BLOCK, scalar::attention::KV_TILE, scalar::attention::KvType};

use super::{Case, Random};

/// Activations in the forms that are asked for: bit 0 codes, bit 1 floats, bit 2 what the codes stand for.
fn codes(case: &mut Case, rows: usize, n: usize, forms: usize) -> Codes {
    let n_blocks = n.div_ceil(BLOCK);
    let blocks = rows * n_blocks;
    let mut out = Codes {
        n_blocks: n_blocks as u32,
        round: (forms >> 2 & 1) as u32,
        ..Codes::default()
    };
    if forms & 1 != 0 {
        out.codes = case.room("codes", blocks * BLOCK);
        out.scales = case.room("scales", blocks * 4);
        out.sums = case.room("sums", blocks * 4);
    }
    if forms & 2 != 0 {
        out.floats = case.room("floats", blocks * BLOCK * 4);
    }
    out
}

/// Rows with blocks of every kind: zeros, below the limit of a scale, ties, huge numbers.
fn rows(random: &mut Random, rows: usize, stride: usize) -> Vec<f32> {
    let mut x = Vec::with_capacity(rows * stride);
    while x.len() < rows * stride {
        let block = match random.below(8) {
            0 => vec![0.0; BLOCK],
            1 => random.floats(BLOCK, 2.0_f32.powi(-100)),
            2 => {
                let mut ties = random.floats(BLOCK, 127.0);
                ties.iter_mut()
                    .for_each(|x| *x = (*x * 2.0).round_ties_even() / 2.0);
                ties[random.below(BLOCK)] = 127.0;
                ties
            }
            3 => random.floats(BLOCK, 1e15),
            4 => random.floats(BLOCK, 1e-18),
            _ => random.floats(BLOCK, 3.0),
        };
        x.extend(block);
    }
    x.truncate(rows * stride);
    x
}

/// Lengths of rows: around blocks, vectors, a block of threads' 1024, and the norm's pieces.
const LENGTHS: [usize; 13] = [1, 4, 31, 32, 33, 64, 100, 576, 1024, 1056, 2048, 2051, 4160];

fn seeds() -> impl Iterator<Item = u64> {
    0..40
}

#[test]
fn quantisation_is_as_defined() {
    for seed in seeds() {
        let Some(mut case) = Case::new() else {
            return;
        };
        let mut random = Random::new(seed);
        let (n, n_rows) = (random.of(&LENGTHS), 1 + random.below(3));
        let stride = n + random.of(&[0, 0, 1, 4, 60]);
        let forms = random.of(&[1, 2, 3, 5, 6, 7]);
        let mut args = QuantizeArgs {
            out: codes(&mut case, n_rows, n, forms),
            x_stride: stride as u32,
            n: n as u32,
            ..QuantizeArgs::default()
        };
        if forms & 2 != 0 && n % BLOCK == 0 && random.one_in(2) {
            // In place.
            args.x_stride = n as u32;
            args.x = case.floats("x, rewritten", &rows(&mut random, n_rows, n));
            args.out.floats = args.x;
        } else {
            args.x = case.floats("x", &rows(&mut random, n_rows, stride));
        }
        let shape = args.shape(n_rows as u32);
        let launch = Launch::new(Kernel::Quantize, shape, &args);
        case.check(&launch, &format!("seed {seed}: {args:?}"));
    }
}

#[test]
fn swiglu_is_as_defined() {
    for seed in seeds() {
        let Some(mut case) = Case::new() else {
            return;
        };
        let mut random = Random::new(seed);
        let (n, n_rows) = (random.of(&LENGTHS), 1 + random.below(3));
        let stride = n + random.of(&[0, 0, 1, 4, 60]);
        // Gates beyond both ends of the exponential.
        let gates = random.of(&[1.0, 20.0, 200.0]);
        let args = SwigluArgs {
            gate: case.floats("gate", &random.floats(n_rows * stride, gates)),
            up: case.floats("up", &random.floats(n_rows * stride, 5.0)),
            out: codes(&mut case, n_rows, n, random.of(&[1, 2, 3, 5, 7])),
            stride: stride as u32,
            n: n as u32,
        };
        let launch = Launch::new(Kernel::Swiglu, args.shape(n_rows as u32), &args);
        case.check(&launch, &format!("seed {seed}: {args:?}"));
    }
}

#[test]
fn norms_are_as_defined() {
    for seed in seeds() {
        let Some(mut case) = Case::new() else {
            return;
        };
        let mut random = Random::new(seed);
        let (dim, n_rows) = (random.of(&LENGTHS), 1 + random.below(3));
        let stride = dim + random.of(&[0, 0, 1, 4, 60]);
        let scale = random.of(&[1e-12, 1.0, 300.0]);
        let mut args = NormQuantizeArgs {
            x: case.floats("x", &random.floats(5 * stride, scale)),
            weight: case.floats("weight", &random.floats(dim, 2.0)),
            out: codes(&mut case, n_rows, dim, random.of(&[1, 2, 3, 5, 7])),
            x_stride: stride as u32,
            dim: dim as u32,
            eps: random.of(&[1e-5, 1e-6]),
            ..NormQuantizeArgs::default()
        };
        if random.one_in(2) {
            let index: Vec<u32> = (0..n_rows).map(|_| random.below(5) as u32).collect();
            args.row_index = case.words("row_index", &index);
        }
        let shape = args.shape(n_rows as u32);
        let launch = Launch::new(Kernel::NormQuantize, shape, &args);
        case.check(&launch, &format!("seed {seed}: {args:?}"));
    }
}

#[test]
fn heads_are_turned_and_stored_as_defined() {
    for seed in 0..60 {
        let Some(mut case) = Case::new() else {
            return;
        };
        let mut random = Random::new(seed);
        let kv_type = [KvType::F32, KvType::F16, KvType::Q8][seed as usize % 3];
        let head_dim = random.of(&[2, 16, 20, 64, 96, 128, 256]);
        let n_kv_heads = 1 + random.below(3);
        let n_heads = n_kv_heads * (1 + random.below(4));
        let n_rows = 1 + random.below(4);
        let q_stride = n_heads * head_dim + random.of(&[0, 3, 64]);
        let kv_stride = n_kv_heads * head_dim + random.of(&[0, 5, 64]);
        // Numbers that an f16 cache rounds, makes subnormal and saturates, and blocks of zeros for q8.
        let scale = random.of(&[1e-40, 1e-6, 1.0, 1e5]);
        let mut numbers = |n: usize| match random.below(9) {
            0 => vec![0.0; n],
            _ => random.floats(n, scale),
        };
        let part_bytes = kv_type.part_bytes(head_dim);
        // Two layers of a page.
        let layer = 2 * n_kv_heads * part_bytes;
        let mut args = RopeStoreArgs {
            q: case.floats("q", &numbers(n_rows * q_stride)),
            k: case.floats("k", &numbers(n_rows * kv_stride)),
            v: case.floats("v", &numbers(n_rows * kv_stride)),
            kv_type: kv_type_id(kv_type),
            rows: n_rows as u32,
            n_heads: n_heads as u32,
            head_dim: head_dim as u32,
            q_stride: q_stride as u32,
            kv_stride: kv_stride as u32,
            eps: 1e-6,
            ..RopeStoreArgs::default()
        };
        args.rope = case.floats("rope", &random.floats(n_rows * head_dim, 1.0));
        if random.one_in(2) {
            args.q_norm = case.floats("q_norm", &random.floats(head_dim, 1.5));
            args.k_norm = case.floats("k_norm", &random.floats(head_dim, 1.5));
        }
        // Each row a position of its own in one of two sequences of four pages each.
        let pages: Vec<u32> = (0..8).map(|i| (i * 3 + 1) % 8).collect();
        let first = random.below(3 * KV_TILE);
        let query_rows: Vec<u32> = (0..n_rows)
            .flat_map(|row| [(first + 17 * row) as u32, 4 * (row % 2) as u32])
            .collect();
        args.pool = PoolArgs {
            kv: case.room("kv", 8 * 2 * layer),
            page_table: case.words("page_table", &pages),
            query_rows: case.words("query_rows", &query_rows),
            page_bytes: 2 * layer as u64,
            layer_offset: (layer * random.below(2)) as u64,
            part_bytes: part_bytes as u32,
            n_kv_heads: n_kv_heads as u32,
        };
        let launch = Launch::new(Kernel::RopeStore, args.shape(), &args);
        case.check(&launch, &format!("seed {seed}: {args:?}"));
    }
}

#[test]
fn a_number_that_is_not_finite_makes_its_block_not_finite() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let Some(mut case) = Case::emulated() else {
            return;
        };
        let mut x = vec![1.0; 3 * BLOCK];
        x[40] = bad;
        let args = QuantizeArgs {
            x: case.floats("x", &x),
            out: codes(&mut case, 1, 3 * BLOCK, 1),
            x_stride: 96,
            n: 96,
        };
        let launch = Launch::new(Kernel::Quantize, args.shape(1), &args);
        case.emulate(&launch, 1).unwrap();
        let scales = case.floats_of("scales");
        let finite: Vec<bool> = scales.iter().map(|d| d.is_finite()).collect();
        assert_eq!(finite, [true, false, true], "{bad}: {scales:?}");
    }
}
