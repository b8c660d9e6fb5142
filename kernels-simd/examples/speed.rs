//! How fast the matrix kernels are, roughly: `cargo run --release -p chaski-kernels-simd --features
//! testing --example speed [LEVEL [MIB]]`.
//!
//! Decode (1 row): bytes of weights read per second, from a set larger than the caches. Several
//! rows: products per second, from a matrix that fits the cache. Best of several rounds.
#![allow(clippy::print_stdout, reason = "prints a table")]

use std::{env, error::Error, hint::black_box, time::Instant};

use chaski_kernels_simd::{
    Kernels,
    testing::{Fill, Rng, acts, random_tiles},
};
use chaski_quant::{BLOCK, QuantType, TILE_ROWS, TensorLayout, TileRun};

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

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let kernels = args
        .next()
        .map_or_else(|| Ok(Kernels::best()), |name| Kernels::by_name(&name))?;
    let mib: usize = args.next().map_or(Ok(100), |n| n.parse())?;
    println!(
        "{}: decode of {mib} MiB in GB/s, then GMAC/s of 1024 x {COLS}",
        kernels.name()
    );
    println!(
        "{:>5} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "type", "decode", "2", "4", "8", "128"
    );
    for qtype in QuantType::ALL {
        let layout = TensorLayout::new(qtype, TILE_ROWS, COLS)?;
        let n_tiles = (mib << 20) / layout.tile_bytes();
        let bytes = weights(&layout, n_tiles);
        let run = TileRun::new(&layout, &bytes, n_tiles, layout.tile_bytes());
        let x = acts(&mut Rng::new(2), 128, COLS / BLOCK, Fill::Random);
        let mut out = vec![0.0; n_tiles * TILE_ROWS];
        let seconds = best(8, || {
            kernels.matmul(black_box(&run), &x.rows(1), black_box(&mut out))
        });
        print!("{:>5} {:>7.1}", qtype, bytes.len() as f64 / seconds / 1e9);
        let run = run.slice(0..64);
        for rows in [2, 4, 8, 128] {
            let mut out = vec![0.0; 64 * TILE_ROWS * rows];
            let call = || kernels.matmul(black_box(&run), &x.rows(rows), black_box(&mut out));
            let products = (64 * TILE_ROWS * COLS * rows) as f64;
            print!(" {:>7.1}", products / best(12, call) / 1e9);
        }
        println!();
    }
    Ok(())
}
