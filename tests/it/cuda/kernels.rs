//! What each kernel is to compute, by `chaski_quant::scalar`, from nothing but its arguments.

use chaski::backend::cuda::args::{
    Args, AttendArgs, AttendMergeArgs, AttendRowsArgs, Codes, Kernel, MatrixArgs, MatrixPart,
    NormQuantizeArgs, PARTS, Packed, PoolArgs, QuantizeArgs, ReadProbeArgs, RopeStoreArgs,
    SwigluArgs, code_position,
};
use chaski::backend::cuda::device::Launch;
use chaski_models::forward::kv::{span_parts, spans};
use chaski_quant::{
    ActRows, BLOCK, QuantType, TILE_ROWS, TensorLayout, TileRun, scalar,
    scalar::attention::{KV_TILE, KvTile, KvType},
};

use super::memory::{Illegal, Memory};

/// A structure's fields by name.
struct Fields {
    bytes: Vec<u8>,
    layout: Vec<(&'static str, usize, usize)>,
}

impl Fields {
    fn of<A: Args + Default>(packed: &Packed) -> Self {
        let mut bytes: Vec<u8> = packed
            .words()
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect();
        bytes.truncate(packed.len());
        assert_eq!(bytes.len(), A::default().pack().len(), "{}", A::NAME);
        Self {
            bytes,
            layout: A::default().layout(),
        }
    }

    fn field(&self, name: &str) -> &[u8] {
        let field = self.layout.iter().find(|f| f.0 == name);
        let (_, start, len) = field.unwrap_or_else(|| panic!("no field {name}"));
        &self.bytes[*start..start + len]
    }

    fn address(&self, name: &str) -> u64 {
        u64::from_le_bytes(self.field(name).try_into().unwrap())
    }

    fn size(&self, name: &str) -> usize {
        u32::from_le_bytes(self.field(name).try_into().unwrap()) as usize
    }

    fn float(&self, name: &str) -> f32 {
        f32::from_bits(self.size(name) as u32)
    }

    /// Structure `i` of `n` in field `name`.
    fn part<A: Args + Default>(&self, name: &str, i: usize, n: usize) -> Self {
        let field = self.field(name);
        let len = field.len() / n;
        Self {
            bytes: field[i * len..(i + 1) * len].to_vec(),
            layout: A::default().layout(),
        }
    }
}

/// An address behind elements of `bytes` each.
const fn at(address: u64, elements: usize, bytes: usize) -> u64 {
    address + (elements * bytes) as u64
}

/// Runs a launch.
pub(super) fn run(memory: &mut Memory, launch: &Launch) -> Result<(), Illegal> {
    let (args, grid) = (&launch.args, launch.shape.grid.map(|n| n as usize));
    match launch.kernel {
        Kernel::NormQuantize => {
            norm_quantize(memory, &Fields::of::<NormQuantizeArgs>(args), grid[0])
        }
        Kernel::Quantize => quantize(memory, &Fields::of::<QuantizeArgs>(args), grid[1]),
        Kernel::Swiglu => swiglu(memory, &Fields::of::<SwigluArgs>(args), grid[1]),
        Kernel::RopeStore => rope_store(memory, &Fields::of::<RopeStoreArgs>(args)),
        Kernel::Matvec(qtype) => {
            let args = Fields::of::<MatrixArgs>(args);
            assert!(args.size("rows") <= 8 && qtype.is_quantized());
            matrix(memory, &args, qtype)
        }
        Kernel::Matmul(qtype) | Kernel::MatrixFloat(qtype) => {
            matrix(memory, &Fields::of::<MatrixArgs>(args), qtype)
        }
        Kernel::Attend(kv) => attend(memory, &Fields::of::<AttendArgs>(args), kv, grid[0]),
        Kernel::AttendMerge => attend_merge(memory, &Fields::of::<AttendMergeArgs>(args), grid[1]),
        Kernel::AttendRows(kv) => {
            attend_rows(memory, &Fields::of::<AttendRowsArgs>(args), kv, grid[0])
        }
        Kernel::ReadProbe => {
            let args = Fields::of::<ReadProbeArgs>(args);
            let n = 16 * args.address("n") as usize;
            let (words, _) = memory.bytes(args.address("data"), n)?.as_chunks();
            let folded = words.iter().fold(0, |x, w| x ^ u32::from_le_bytes(*w));
            memory.put(args.address("out"), &[f32::from_bits(folded)])
        }
        kernel => panic!("{kernel:?} has no definition here"),
    }
}

/// Writes row `row` of activations.
fn put_codes(memory: &mut Memory, out: &Fields, row: usize, x: &[f32]) -> Result<(), Illegal> {
    let n_blocks = out.size("n_blocks");
    let mut floats = vec![0.0; n_blocks * BLOCK];
    floats[..x.len()].copy_from_slice(x);
    for (b, block) in floats.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        if out.address("codes") == 0 {
            break;
        }
        let i = row * n_blocks + b;
        let (codes, d, sums) = scalar::quantize_block(block);
        let to = memory.bytes_mut(at(out.address("codes"), i, BLOCK), BLOCK)?;
        for (k, code) in codes.into_iter().enumerate() {
            to[code_position(k)] = code as u8;
        }
        memory.put(at(out.address("scales"), i, 4), &[d])?;
        let sums: Vec<u8> = sums.iter().flat_map(|s| s.to_le_bytes()).collect();
        memory
            .bytes_mut(at(out.address("sums"), i, 4), 4)?
            .copy_from_slice(&sums);
        if out.size("round") != 0 {
            *block = codes.map(|code| f32::from(code) * d);
        }
    }
    match out.address("floats") {
        0 => Ok(()),
        to => memory.put(at(to, row * n_blocks * BLOCK, 4), &floats),
    }
}

fn norm_quantize(memory: &mut Memory, args: &Fields, rows: usize) -> Result<(), Illegal> {
    let (dim, stride) = (args.size("dim"), args.size("x_stride"));
    let weight = memory.floats(args.address("weight"), dim)?;
    let out = args.part::<Codes>("out", 0, 1);
    for row in 0..rows {
        let from = match args.address("row_index") {
            0 => row,
            index => memory.words(at(index, row, 4), 1)?[0] as usize,
        };
        let x = memory.floats(at(args.address("x"), from * stride, 4), dim)?;
        let mut normed = vec![0.0; dim];
        scalar::rms_norm(&x, &weight, args.float("eps"), &mut normed);
        put_codes(memory, &out, row, &normed)?;
    }
    Ok(())
}

fn quantize(memory: &mut Memory, args: &Fields, rows: usize) -> Result<(), Illegal> {
    let out = args.part::<Codes>("out", 0, 1);
    for row in 0..rows {
        let from = at(args.address("x"), row * args.size("x_stride"), 4);
        let x = memory.floats(from, args.size("n"))?;
        put_codes(memory, &out, row, &x)?;
    }
    Ok(())
}

fn swiglu(memory: &mut Memory, args: &Fields, rows: usize) -> Result<(), Illegal> {
    let out = args.part::<Codes>("out", 0, 1);
    let n = args.size("n");
    for row in 0..rows {
        let offset = row * args.size("stride");
        let gate = memory.floats(at(args.address("gate"), offset, 4), n)?;
        let up = memory.floats(at(args.address("up"), offset, 4), n)?;
        let mut h = vec![0.0; n];
        scalar::swiglu(&gate, &up, &mut h);
        put_codes(memory, &out, row, &h)?;
    }
    Ok(())
}

fn matrix(memory: &mut Memory, args: &Fields, qtype: QuantType) -> Result<(), Illegal> {
    let (rows, n_blocks) = (args.size("rows"), args.size("n_blocks"));
    let n = rows * n_blocks;
    let (mut codes, mut scales, mut sums) = (vec![0; n * BLOCK], vec![0.0; n], vec![[0; 2]; n]);
    let mut floats = vec![0.0; n * BLOCK];
    if qtype.is_quantized() {
        let bytes = memory.bytes(args.address("codes"), n * BLOCK)?;
        for (i, code) in codes.iter_mut().enumerate() {
            *code = bytes[i / BLOCK * BLOCK + code_position(i % BLOCK)] as i8;
        }
        scales = memory.floats(args.address("scales"), n)?;
        let bytes = memory.bytes(args.address("sums"), 4 * n)?;
        for (sums, b) in sums.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *sums = [0, 2].map(|i| i16::from_le_bytes([b[i], b[i + 1]]));
        }
    } else {
        floats = memory.floats(args.address("x"), n * BLOCK)?;
    }
    let acts = ActRows::new(rows, n_blocks, &floats, &codes, &scales, &sums);
    for i in 0..PARTS {
        let part = args.part::<MatrixPart>("parts", i, PARTS);
        if part.size("n_tiles") > 0 {
            product(memory, &part, qtype, n_blocks, &acts)?;
        }
    }
    Ok(())
}

fn product(
    memory: &mut Memory,
    part: &Fields,
    qtype: QuantType,
    n_blocks: usize,
    acts: &ActRows<'_>,
) -> Result<(), Illegal> {
    let (n_tiles, per_group) = (part.size("n_tiles"), part.size("tiles_per_group"));
    let (group, stride) = (part.size("row_group"), part.address("stride") as usize);
    let n_out = n_tiles / per_group * group;
    let layout = TensorLayout::grouped(qtype, n_out, n_blocks * BLOCK, group).unwrap();
    assert_eq!(
        (layout.n_tiles(), layout.tiles_per_group()),
        (n_tiles, per_group)
    );
    let len = (n_tiles - 1) * stride + layout.tile_bytes();
    let bytes = memory.bytes(part.address("tiles"), len)?;
    let run = TileRun::new(&layout, bytes, n_tiles, stride);
    let mut products = vec![0.0; n_tiles * acts.n_rows() * TILE_ROWS];
    scalar::matmul(&run, acts, &mut products);
    let bias = match part.address("bias") {
        0 => None,
        bias => Some(memory.floats(bias, n_out)?),
    };
    for row in 0..acts.n_rows() {
        let mut y: Vec<f32> = (0..n_out)
            .map(|j| {
                let (tile, lane) = layout.tile_and_lane(j);
                products[(tile * acts.n_rows() + row) * TILE_ROWS + lane]
            })
            .collect();
        if let Some(bias) = &bias {
            scalar::add(&mut y, bias);
        }
        let offset = row * part.size("out_stride");
        if part.address("residual") != 0 {
            let x = memory.floats(at(part.address("residual"), offset, 4), n_out)?;
            scalar::add(&mut y, &x);
        }
        memory.put(at(part.address("out"), offset, 4), &y)?;
    }
    Ok(())
}

/// The pool of attention's arguments.
fn pool(args: &Fields) -> Fields {
    args.part::<PoolArgs>("pool", 0, 1)
}

/// Position of a row, and the pages of its sequence from the first on.
fn query_row(memory: &Memory, pool: &Fields, row: usize) -> Result<(usize, u64), Illegal> {
    let words = memory.words(at(pool.address("query_rows"), row, 8), 2)?;
    let table = at(pool.address("page_table"), words[1] as usize, 4);
    Ok((words[0] as usize, table))
}

/// Where a tile of a KV head is: its key part; the value part follows.
fn tile(memory: &Memory, pool: &Fields, table: u64, t: usize, head: usize) -> Result<u64, Illegal> {
    let page = memory.words(at(table, t, 4), 1)?[0];
    let start = pool.address("kv") + u64::from(page) * pool.address("page_bytes");
    let parts = 2 * head * pool.size("part_bytes");
    Ok(start + pool.address("layer_offset") + parts as u64)
}

fn rope_store(memory: &mut Memory, args: &Fields) -> Result<(), Illegal> {
    let pool = &pool(args);
    let (hd, part_bytes) = (args.size("head_dim"), pool.size("part_bytes"));
    let kv_type = [KvType::F32, KvType::F16, KvType::Q8][args.size("kv_type")];
    for row in 0..args.size("rows") {
        let (pos, table) = query_row(memory, pool, row)?;
        let rope = memory.floats(at(args.address("rope"), row * hd, 4), hd)?;
        let turned = |memory: &Memory, x: u64, norm: u64| {
            let mut head = memory.floats(x, hd)?;
            if norm != 0 {
                let (x, weight) = (head.clone(), memory.floats(norm, hd)?);
                scalar::rms_norm(&x, &weight, args.float("eps"), &mut head);
            }
            scalar::rope(&mut head, &rope[..hd / 2], &rope[hd / 2..]);
            Ok(head)
        };
        for head in 0..args.size("n_heads") {
            let q = at(
                args.address("q"),
                row * args.size("q_stride") + head * hd,
                4,
            );
            let turned = turned(memory, q, args.address("q_norm"))?;
            memory.put(q, &turned)?;
        }
        for head in 0..pool.size("n_kv_heads") {
            let offset = row * args.size("kv_stride") + head * hd;
            let key = turned(
                memory,
                at(args.address("k"), offset, 4),
                args.address("k_norm"),
            )?;
            let value = memory.floats(at(args.address("v"), offset, 4), hd)?;
            let to = tile(memory, pool, table, pos / KV_TILE, head)?;
            let (keys, values) = memory
                .bytes_mut(to, 2 * part_bytes)?
                .split_at_mut(part_bytes);
            scalar::attention::store_key(kv_type, keys, pos % KV_TILE, &key);
            scalar::attention::store_value(kv_type, values, pos % KV_TILE, &value);
        }
    }
    Ok(())
}

/// What query head `head` of `row` attends to within `span`.
fn span_state(
    memory: &Memory,
    args: &Fields,
    kv_type: KvType,
    row: usize,
    head: usize,
    span: usize,
) -> Result<Vec<f32>, Illegal> {
    let pool = &pool(args);
    let (hd, part_bytes) = (args.size("head_dim"), pool.size("part_bytes"));
    let (pos, table) = query_row(memory, pool, row)?;
    let q = memory.floats(
        at(
            args.address("q"),
            row * args.size("q_stride") + head * hd,
            4,
        ),
        hd,
    )?;
    let kv_head = head / (args.size("n_heads") / pool.size("n_kv_heads"));
    let mut state = vec![0.0; hd + 2];
    scalar::attention::clear(&mut state);
    for part in span_parts(attended(args, pos), span) {
        let at = tile(memory, pool, table, part.tile, kv_head)?;
        let (keys, values) = memory.bytes(at, 2 * part_bytes)?.split_at(part_bytes);
        let tile = KvTile {
            kv_type,
            head_dim: hd,
            keys,
            values,
            ahead: &[],
        };
        let scale = args.float("scale");
        scalar::attention::attend_tile(&tile, &q, part.lo, part.hi, scale, &mut state);
    }
    Ok(state)
}

fn attended(args: &Fields, pos: usize) -> std::ops::Range<usize> {
    let start = match args.size("window") {
        0 => 0,
        window => (pos + 1).saturating_sub(window),
    };
    start..pos + 1
}

fn attend(memory: &mut Memory, args: &Fields, kv: KvType, most: usize) -> Result<(), Illegal> {
    let n_slots = memory.words(args.address("n_slots"), 1)?[0] as usize;
    assert!(n_slots <= most, "{n_slots} slots in a grid of {most}");
    let (n_heads, len) = (args.size("n_heads"), args.size("head_dim") + 2);
    for slot in 0..n_slots {
        let words = memory.words(at(args.address("slots"), slot, 8), 2)?;
        for head in 0..n_heads {
            let state = span_state(memory, args, kv, words[0] as usize, head, words[1] as usize)?;
            let to = at(args.address("states"), (slot * n_heads + head) * len, 4);
            memory.put(to, &state)?;
        }
    }
    Ok(())
}

fn attend_merge(memory: &mut Memory, args: &Fields, rows: usize) -> Result<(), Illegal> {
    let (n_heads, hd) = (args.size("n_heads"), args.size("head_dim"));
    for row in 0..rows {
        let slots = memory.words(at(args.address("row_slots"), row, 4), 2)?;
        for head in 0..n_heads {
            let mut total = vec![0.0; hd + 2];
            scalar::attention::clear(&mut total);
            for slot in slots[0] as usize..slots[1] as usize {
                let from = at(
                    args.address("states"),
                    (slot * n_heads + head) * (hd + 2),
                    4,
                );
                scalar::attention::merge(&mut total, &memory.floats(from, hd + 2)?);
            }
            put_result(memory, args, row, head, &total)?;
        }
    }
    Ok(())
}

fn put_result(
    memory: &mut Memory,
    args: &Fields,
    row: usize,
    head: usize,
    state: &[f32],
) -> Result<(), Illegal> {
    let hd = args.size("head_dim");
    let mut out = vec![0.0; hd];
    scalar::attention::finish(state, &mut out);
    let to = row * args.size("out_stride") + head * hd;
    memory.put(at(args.address("out"), to, 4), &out)
}

fn attend_rows(
    memory: &mut Memory,
    args: &Fields,
    kv: KvType,
    blocks: usize,
) -> Result<(), Illegal> {
    for block in 0..blocks {
        let words = memory.words(at(args.address("row_blocks"), block, 8), 2)?;
        for row in words[0] as usize..(words[0] + words[1]) as usize {
            let (pos, _) = query_row(memory, &pool(args), row)?;
            for head in 0..args.size("n_heads") {
                let mut total = vec![0.0; args.size("head_dim") + 2];
                scalar::attention::clear(&mut total);
                for span in spans(&attended(args, pos)) {
                    let state = span_state(memory, args, kv, row, head, span)?;
                    scalar::attention::merge(&mut total, &state);
                }
                put_result(memory, args, row, head, &total)?;
            }
        }
    }
    Ok(())
}
