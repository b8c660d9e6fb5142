//! One small tile of each type, byte by byte: quantising its weights gives the recorded bytes, the
//! bytes decode to the recorded values, and packing the codes of the bytes gives the bytes.
//!
//! `data/tiles.txt` was checked once against a decoder of its own in Python. Text and bytes are the
//! format: a change here breaks every file there is.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::fmt::Write;

use chaski_quant::{
    BLOCK, QuantType, TILE_ROWS,
    scalar::dequantize_tile,
    tile::{self, check_tile},
};
use support::{quantize, tile_layout};

const GOLDEN: &str = include_str!("data/tiles.txt");
const ROWS: usize = 3;

/// Columns: two blocks, the second with 8 columns; float types 5 columns.
fn cols(qtype: QuantType) -> usize {
    if qtype.is_quantized() { 40 } else { 5 }
}

/// Weights that are exact in `f32` and cover a different range in each row. Row 1 has a block of zeros.
fn weights(qtype: QuantType) -> Vec<f32> {
    let mut weights = Vec::new();
    for row in 0..ROWS {
        for col in 0..cols(qtype) {
            let x = (row * 37 + col * 23 + row * col * 7) % 101;
            let x = (x as f32 - 50.0) / 64.0 * (row + 1) as f32;
            weights.push(if row == 1 && col >= 32 { 0.0 } else { x });
        }
    }
    weights
}

/// `type`, lines of 32 bytes in hex (`zeros N` for N such lines of zeros), then the values of each row.
fn render(qtype: QuantType, bytes: &[u8], values: &[f32]) -> String {
    let mut text = format!("type {qtype}\n");
    let mut zeros = 0;
    for line in bytes.chunks(32).map(Some).chain([None]) {
        if line.is_some_and(|l| l.iter().all(|b| *b == 0)) {
            zeros += 1;
            continue;
        }
        if zeros > 0 {
            writeln!(text, "zeros {zeros}").unwrap();
            zeros = 0;
        }
        for byte in line.unwrap_or(&[]) {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text.pop();
    for row in values.chunks(cols(qtype)) {
        text.push_str("values");
        for value in row {
            write!(text, " {value:?}").unwrap();
        }
        text.push('\n');
    }
    text
}

/// What `render` wrote.
fn parse(text: &str) -> (Vec<u8>, Vec<f32>) {
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for line in text.lines().skip(1) {
        if let Some(row) = line.strip_prefix("values ") {
            values.extend(row.split(' ').map(|x| x.parse::<f32>().unwrap()));
        } else if let Some(n) = line.strip_prefix("zeros ") {
            bytes.resize(bytes.len() + 32 * n.parse::<usize>().unwrap(), 0);
        } else {
            let byte = |i| u8::from_str_radix(&line[i..i + 2], 16).unwrap();
            bytes.extend((0..line.len()).step_by(2).map(byte));
        }
    }
    (bytes, values)
}

fn section(qtype: QuantType) -> String {
    let start = GOLDEN.find(&format!("type {qtype}\n")).unwrap();
    let text = &GOLDEN[start..];
    text.split("\n\n").next().unwrap().trim_end().to_owned() + "\n"
}

#[test]
fn weights_become_the_recorded_bytes() {
    for qtype in QuantType::ALL {
        let (bytes, _) = quantize(qtype, &weights(qtype), cols(qtype));
        let values = dequantize_tile(&tile_layout(qtype, ROWS, cols(qtype)), 0, &bytes);
        let got = render(qtype, &bytes, &values);
        assert!(got == section(qtype), "{qtype} has become\n{got}");
    }
}

#[test]
fn recorded_bytes_decode_to_the_recorded_values() {
    for qtype in QuantType::ALL {
        let (bytes, values) = parse(&section(qtype));
        let layout = tile_layout(qtype, ROWS, cols(qtype));
        check_tile(&layout, 0, &bytes).unwrap();
        let decoded = dequantize_tile(&layout, 0, &bytes);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&decoded), bits(&values), "{qtype}");
    }
}

#[test]
fn packing_the_codes_of_the_recorded_bytes_gives_the_bytes() {
    for qtype in QuantType::ALL.into_iter().filter(|t| t.is_quantized()) {
        let (bytes, _) = parse(&section(qtype));
        let mut packed = vec![0; bytes.len()];
        packed[..64].copy_from_slice(&bytes[..64]);
        for b in 0..2 {
            let at = 64 + b * qtype.tile_block_bytes();
            let block = &bytes[at..at + qtype.tile_block_bytes()];
            let out = &mut packed[at..at + block.len()];
            let n_scales = tile::scales_per_block(qtype) * TILE_ROWS;
            out[..n_scales].copy_from_slice(&block[..n_scales]);
            for (row, k) in (0..TILE_ROWS).flat_map(|row| (0..BLOCK).map(move |k| (row, k))) {
                tile::set_code(qtype, out, row, k, tile::code(qtype, block, row, k));
            }
        }
        assert_eq!(packed, bytes, "{qtype}");
    }
}
