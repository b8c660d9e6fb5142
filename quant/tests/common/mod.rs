//! Small files for the tests, and their bytes as text.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test uses a part"
)]

use std::{fmt::Write as _, io::Cursor};

use byteorder::{ByteOrder, LittleEndian};
use chaski_quant::{
    BLOCK, QuantType, TILE_ROWS, TensorLayout,
    container::{ContainerWriter, DataPlan, HEADER_BYTES, Section, TensorDecl, TensorKind},
    tile,
};
use xxhash_rust::xxh3::xxh3_64;

/// A seeded generator (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.u64() % n as u64) as usize
    }
}

pub fn matrix(name: &str, qtype: QuantType, rows: usize, cols: usize) -> TensorDecl {
    let layout = TensorLayout::new(qtype, rows, cols).unwrap();
    let kind = TensorKind::Matrix(layout);
    TensorDecl {
        name: name.to_owned(),
        kind,
        section_start: false,
        interleaved: false,
    }
}

pub fn vector(name: &str, len: usize) -> TensorDecl {
    let kind = TensorKind::Vector { len };
    TensorDecl {
        name: name.to_owned(),
        kind,
        section_start: false,
        interleaved: false,
    }
}

/// A valid tile: random codes and scales for its rows; missing rows are zero bytes, columns past the
/// last one zero codes, and scales of no column the scale 0.
pub fn random_tile(layout: &TensorLayout, index: usize, rng: &mut Rng) -> Vec<u8> {
    let (qtype, n_rows) = (layout.qtype(), layout.tile_rows(index).len());
    let mut bytes = vec![0; layout.tile_bytes()];
    let head = qtype.tile_header_bytes();
    let (scales, blocks) = bytes.split_at_mut(head);
    for row in scales.chunks_exact_mut(4).take(n_rows) {
        // Between 2^-20 and 2^-4, with all mantissas.
        let exponent = 107 + rng.below(16) as u32;
        LittleEndian::write_u32(row, exponent << 23 | (rng.u64() as u32 & 0x7f_ffff));
    }
    let n_blocks = layout.n_blocks();
    for (b, block) in blocks
        .chunks_exact_mut(qtype.tile_block_bytes())
        .take(n_blocks)
        .enumerate()
    {
        let n_cols = (layout.cols() - b * BLOCK).min(BLOCK);
        for row in 0..n_rows {
            for k in 0..n_cols {
                if qtype.is_quantized() {
                    tile::set_code(qtype, block, row, k, random_code(qtype, rng));
                } else {
                    put_float(qtype, block, k * TILE_ROWS + row, rng);
                }
            }
            for half in 0..tile::scales_per_block(qtype) {
                let some = half * BLOCK / 2 < n_cols;
                let v = (rng.below(127) as i8 - 63) * i8::from(some);
                let shift = some && rng.below(2) == 1;
                block[half * TILE_ROWS + row] = match tile::codebook(qtype) {
                    Some(_) => tile::q4_scale_byte(v, shift),
                    None => (v * 2) as u8,
                };
            }
        }
    }
    bytes
}

fn random_code(qtype: QuantType, rng: &mut Rng) -> u8 {
    match qtype {
        QuantType::Q8 => (rng.below(255) as i16 - 127) as i8 as u8,
        QuantType::Q6 => rng.below(64) as u8,
        QuantType::Q5 => rng.below(32) as u8,
        QuantType::Q3 => rng.below(8) as u8,
        _ => rng.below(16) as u8,
    }
}

/// A finite float of any size, zeros and subnormals too.
fn put_float(qtype: QuantType, block: &mut [u8], i: usize, rng: &mut Rng) {
    let exponent_bits = if qtype == QuantType::F16 { 5 } else { 8 };
    let exponent = rng.below((1 << exponent_bits) - 1) as u64;
    let (width, mantissa) = match qtype {
        QuantType::F32 => (32, 23),
        QuantType::F16 => (16, 10),
        _ => (16, 7),
    };
    let bits = (rng.u64() & ((1 << mantissa) - 1))
        | (exponent << mantissa)
        | ((rng.u64() & 1) << (width - 1));
    if width == 32 {
        LittleEndian::write_u32(&mut block[4 * i..], bits as u32);
    } else {
        LittleEndian::write_u16(&mut block[2 * i..], bits as u16);
    }
}

/// The file of these tensors, filled from the seed.
pub fn build(
    decls: Vec<TensorDecl>,
    sections: &[Section<'_>],
    metadata: &str,
    seed: u64,
) -> Vec<u8> {
    let mut rng = Rng(seed);
    let plan = DataPlan::new(decls).unwrap();
    let decls = plan.decls().to_vec();
    let mut writer = ContainerWriter::new(Cursor::new(Vec::new()), plan).unwrap();
    let mut i = 0;
    while i < decls.len() {
        let n = 1 + usize::from(decls[i].interleaved);
        match decls[i].kind {
            TensorKind::Matrix(layout) => {
                for t in 0..layout.n_tiles() {
                    for d in 0..n {
                        writer
                            .write(i + d, &random_tile(&layout, t, &mut rng))
                            .unwrap();
                    }
                }
            }
            TensorKind::Vector { len } => {
                let mut bytes = vec![0; 4 * len];
                (0..len).for_each(|j| put_float(QuantType::F32, &mut bytes, j, &mut rng));
                writer.write(i, &bytes).unwrap();
            }
        }
        i += n;
    }
    writer.finish(metadata, sections).unwrap().into_inner()
}

/// All types, a pair, row groups, columns that are no multiple of 32, two layers.
pub fn zoo() -> Vec<TensorDecl> {
    let mut decls = Vec::new();
    for qtype in QuantType::ALL {
        decls.push(matrix(&format!("whole.{qtype}"), qtype, 33, 96));
        let layout = TensorLayout::grouped(qtype, 40, 45, 20).unwrap();
        let name = format!("grouped.{qtype}");
        decls.push(TensorDecl {
            kind: TensorKind::Matrix(layout),
            ..vector(&name, 1)
        });
        let start = qtype == QuantType::Q4;
        let first = matrix(&format!("gate.{qtype}"), qtype, 50, 64);
        decls.push(TensorDecl {
            interleaved: true,
            section_start: start,
            ..first
        });
        decls.push(matrix(&format!("up.{qtype}"), qtype, 50, 64));
    }
    decls.push(vector("norm é", 100));
    decls
}

/// The tensors of the golden file.
pub fn tiny() -> Vec<TensorDecl> {
    vec![
        vector("norm", 3),
        matrix("w", QuantType::Q8, 2, 32),
        TensorDecl {
            interleaved: true,
            ..matrix("gate", QuantType::Q4, 17, 32)
        },
        matrix("up", QuantType::Q4, 17, 32),
    ]
}

pub const TINY_METADATA: &str = r#"{"version": 1, "config": {"dim": 32}}"#;

pub fn tiny_file() -> Vec<u8> {
    let sections = [
        Section {
            kind: chaski_quant::container::SectionKind::Tokenizer,
            bytes: b"tokens",
        },
        Section {
            kind: chaski_quant::container::SectionKind::TokenizerFast,
            bytes: b"fast",
        },
    ];
    build(tiny(), &sections, TINY_METADATA, 7)
}

/// Makes every checksum of a file fit its bytes again, where they can be found, so that a changed
/// field is reached and not the checksum above it. The tensors' own checksums stay.
pub fn sign(file: &mut [u8]) {
    if file.len() < HEADER_BYTES {
        return;
    }
    let n = (LittleEndian::read_u32(&file[12..]) as usize).min(16);
    for e in (0..n).map(|i| 24 + 28 * i) {
        let at = |f| LittleEndian::read_u64(&file[e + f..]) as usize;
        let Some(bytes) = at(4)
            .checked_add(at(12))
            .and_then(|end| file.get(at(4)..end))
        else {
            continue;
        };
        let mut hash = xxh3_64(bytes);
        match LittleEndian::read_u16(&file[e..]) {
            1 => continue,
            2 => {
                let hashes = tensor_hashes(bytes);
                if LittleEndian::read_u16(&file[24..]) == 1 {
                    LittleEndian::write_u64(&mut file[24 + 20..], hashes);
                }
            }
            0xffff => hash = 0,
            _ => {}
        }
        LittleEndian::write_u64(&mut file[e + 20..], hash);
    }
    let checksum = xxh3_64(&file[..HEADER_BYTES - 8]);
    LittleEndian::write_u64(&mut file[HEADER_BYTES - 8..], checksum);
}

fn tensor_hashes(directory: &[u8]) -> u64 {
    let (mut hashes, mut at) = (Vec::new(), 8);
    while let Some(entry) = directory.get(at..at + 44) {
        hashes.extend_from_slice(&entry[16..24]);
        at += 44 + usize::from(LittleEndian::read_u16(&entry[40..]));
    }
    xxh3_64(&hashes)
}

/// Lines of 16 bytes; those that are all zero are left out, the last line is the length.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (i, line) in bytes
        .chunks(16)
        .enumerate()
        .filter(|(_, l)| l.iter().any(|b| *b != 0))
    {
        write!(text, "{:08x} ", 16 * i).unwrap();
        line.iter().for_each(|b| write!(text, " {b:02x}").unwrap());
        text.push('\n');
    }
    writeln!(text, "{:08x}", bytes.len()).unwrap();
    text
}

pub fn from_hex(text: &str) -> Vec<u8> {
    let number = |s| usize::from_str_radix(s, 16).unwrap();
    let mut bytes = vec![0; number(text.lines().last().unwrap())];
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let at = number(words.next().unwrap());
        words
            .enumerate()
            .for_each(|(i, w)| bytes[at + i] = number(w) as u8);
    }
    bytes
}
