//! How fast the matrix kernels are, roughly: `cargo run --release -p chaski-kernels-simd --features
//! testing --example speed [LEVEL [MIB]]`.
//!
//! Attention (alone where MIB is 0): products per second of queries over KV tiles, those of the keys
//! and of the values.
//!
//! Decode (1 row): bytes of weights read per second, from a set larger than the caches. Several
//! rows: products per second, from a matrix that fits the cache. Best of several rounds.
#![allow(clippy::print_stdout, reason = "prints a table")]

use std::{env, error::Error, hint::black_box, time::Instant};

use chaski_kernels_simd::{
    Kernels,
    testing::{Fill, Rng, acts, random_tiles},
};
use chaski_quant::{
    BLOCK, QuantType, TILE_ROWS, TensorLayout, TileRun,
    scalar::attention::{self, KV_TILE, KvTile, KvType},
};

const COLS: usize = 2048;

/// Seconds of the fastest of `rounds` calls.
fn best(rounds: usize, mut call: impl FnMut()) -> f64 {
    let time = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        call();
        start.elapsed().as_secs_f64()
    };
    (0..rounds)
        .map(|_| time(&mut call))
        .fold(f64::INFINITY, f64::min)
}

/// `n` tiles, copies of one tile: the speed does not depend on the weights.
fn weights(layout: &TensorLayout, n: usize) -> Vec<u8> {
    let one = TensorLayout::new(layout.qtype(), TILE_ROWS, layout.cols());
    one.map_or_else(
        |_| Vec::new(),
        |one| random_tiles(&mut Rng::new(1), &one).repeat(n),
    )
}

/// Bytes of `n` stored keys or values.
fn part(kv_type: KvType, head_dim: usize, n: usize) -> Vec<u8> {
    let mut part = vec![0; kv_type.part_bytes(head_dim)];
    let mut rng = Rng::new(3);
    for pos in 0..KV_TILE {
        attention::store_value(kv_type, &mut part, pos, &rng.floats(head_dim, 1.0));
    }
    part.repeat(n)
}

/// Queries that attend to every tile of `keys` and `values`, each read while the one before is computed.
fn attend(
    kernels: &Kernels,
    (kv_type, head_dim): (KvType, usize),
    tiles: &[u8],
    q: &[f32],
    states: &mut [f32],
) {
    let tile_bytes = 2 * kv_type.part_bytes(head_dim);
    let ranges = [[0, 64]; 64];
    let mut tiles = tiles.chunks_exact(tile_bytes).peekable();
    while let Some(tile) = tiles.next() {
        let (keys, values) = tile.split_at(tile_bytes / 2);
        let kv = KvTile {
            kv_type,
            head_dim,
            keys,
            values,
            ahead: tiles.peek().copied().unwrap_or_default(),
        };
        let n = q.len() / head_dim;
        kernels.attend_tile(&kv, q, &ranges[..n], 0.125, states);
    }
}

fn attention(kernels: &Kernels) {
    /// A span's, so that tiles come from the second-level cache; and as many as come from memory.
    const TILES: [usize; 2] = [512 / KV_TILE, 8192];
    println!("attention: GMAC/s of queries over the tiles of a span; of 4 over tiles in memory");
    println!(
        "{:>5} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "type", "head", "1", "3", "4", "6", "24", "64", "memory"
    );
    for kv_type in [KvType::F32, KvType::F16, KvType::Q8] {
        for head_dim in [64, 128] {
            print!("{:>5} {head_dim:>7}", format!("{kv_type:?}"));
            let tiles = part(kv_type, head_dim, 2 * TILES[1]);
            for (n, n_tiles) in [1, 3, 4, 6, 24, 64]
                .map(|n| (n, TILES[0]))
                .into_iter()
                .chain([(4, TILES[1])])
            {
                let q = Rng::new(4).floats(n * head_dim, 1.0);
                let mut states = vec![0.0; n * (head_dim + 2)];
                let bytes = n_tiles * 2 * kv_type.part_bytes(head_dim);
                let times = 2 * TILES[1] / n_tiles / n;
                let seconds = best(12, || {
                    for _ in 0..times.clamp(1, 64) {
                        let shape = (kv_type, head_dim);
                        attend(kernels, shape, &tiles[..bytes], &q, &mut states);
                    }
                    black_box(&mut states);
                }) / times.clamp(1, 64) as f64;
                let products = 2 * n * head_dim * n_tiles * KV_TILE;
                print!(" {:>7.1}", products as f64 / seconds / 1e9);
            }
            println!();
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let kernels = args
        .next()
        .map_or_else(|| Ok(Kernels::best()), |name| Kernels::by_name(&name))?;
    let mib: usize = args.next().map_or(Ok(100), |n| n.parse())?;
    if mib == 0 {
        attention(kernels);
        return Ok(());
    }
    println!(
        "{}: decode of {mib} MiB in GB/s, then GMAC/s of 1024 x {COLS}",
        kernels.name()
    );
    println!(
        "{:>5} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "type", "decode", "1", "2", "4", "8", "128", "512"
    );
    for qtype in QuantType::ALL {
        let layout = TensorLayout::new(qtype, TILE_ROWS, COLS)?;
        let n_tiles = (mib << 20) / layout.tile_bytes();
        let bytes = weights(&layout, n_tiles);
        let run = TileRun::new(&layout, &bytes, n_tiles, layout.tile_bytes());
        let x = acts(&mut Rng::new(2), 512, COLS / BLOCK, Fill::Random);
        let mut out = vec![0.0; n_tiles * TILE_ROWS];
        let seconds = best(8, || {
            kernels.matmul(black_box(&run), &x.rows(1), black_box(&mut out))
        });
        print!("{:>5} {:>7.1}", qtype, bytes.len() as f64 / seconds / 1e9);
        let run = run.slice(0..64);
        for rows in [1, 2, 4, 8, 128, 512] {
            let mut out = vec![0.0; 64 * TILE_ROWS * rows];
            let call = || kernels.matmul(black_box(&run), &x.rows(rows), black_box(&mut out));
            let products = (64 * TILE_ROWS * COLS * rows) as f64;
            print!(" {:>7.1}", products / best(12, call) / 1e9);
        }
        println!();
    }
    attention(kernels);
    Ok(())
}
