//! Attention: a few rows by spans and their merge, many rows by blocks.

use std::collections::BTreeMap;

use chaski::backend::cuda::{
    args::{
        AttendArgs, AttendMergeArgs, AttendRowsArgs, Kernel, MAX_HEAD_DIM, MAX_QUERIES, MAX_SHARED,
        PoolArgs,
    },
    device::Launch,
};
use chaski_models::forward::kv::spans;
use chaski_quant::scalar::attention::{
    KV_SPAN, KV_TILE, KvType, clear, merge, store_key, store_value,
};

use super::{Case, Random};

const KV_TYPES: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8];
/// Those of models, and others: each number of pairs of channels that a lane may have, pieces that do not come out even.
const HEAD_DIMS: [usize; 14] = [2, 6, 20, 32, 64, 66, 80, 96, 112, 128, 130, 192, 254, 256];
const WINDOWS: [usize; 7] = [0, 0, 1, 7, 64, 100, 600];
/// Positions at the borders of tiles and spans.
const POSITIONS: [usize; 14] = [0, 1, 15, 62, 63, 64, 65, 127, 300, 511, 512, 513, 575, 1100];

/// What the tests of both kernels begin with.
struct Drawn {
    kv_type: KvType,
    head_dim: usize,
    group: usize,
    n_kv_heads: usize,
    window: usize,
    q_stride: usize,
}

impl Drawn {
    fn new(random: &mut Random, groups: &[usize]) -> Self {
        let (head_dim, group) = (random.of(&HEAD_DIMS), random.of(groups));
        let n_kv_heads = 1 + random.below(2);
        Self {
            kv_type: random.of(&KV_TYPES),
            head_dim,
            group,
            n_kv_heads,
            window: random.of(&WINDOWS),
            q_stride: n_kv_heads * group * head_dim + random.of(&[0, 2, 64]),
        }
    }

    fn n_heads(&self) -> usize {
        self.n_kv_heads * self.group
    }

    /// Queries, of which some single out one position.
    fn q(&self, case: &mut Case, random: &mut Random, rows: usize) -> u64 {
        let scale = random.of(&[1.0, 1.0, 12.0]);
        case.floats("q", &random.floats(rows * self.q_stride, scale))
    }

    fn scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }

    /// A pool in which each sequence has keys and values up to its last row, and everything else is no number.
    /// `rows`: sequence and position; sequence 1 may begin with pages of sequence 0.
    fn pool(&self, case: &mut Case, random: &mut Random, rows: &[(usize, usize)]) -> PoolArgs {
        let last = |seq| rows.iter().filter(|r| r.0 == seq).map(|r| r.1).max();
        let table_len = 2 + rows.iter().map(|r| r.1 / KV_TILE).max().unwrap();
        let mut pages: Vec<u32> = (0..2 * table_len as u32).collect();
        for i in (1..pages.len()).rev() {
            pages.swap(i, random.below(i + 1));
        }
        if random.one_in(3) {
            pages[table_len] = pages[0];
        }
        let part_bytes = self.kv_type.part_bytes(self.head_dim);
        let layer_bytes = 2 * self.n_kv_heads * part_bytes;
        let (layers, layer) = (2, random.below(2));
        let mut kv = vec![0xff; pages.len() * layers * layer_bytes];
        let scale = random.of(&[1.0, 1.0, 9.0, 1e-37]);
        for seq in 0..2 {
            let Some(last) = last(seq) else { continue };
            for pos in 0..=last {
                let page = pages[seq * table_len + pos / KV_TILE] as usize;
                for head in 0..self.n_kv_heads {
                    let at = (page * layers + layer) * layer_bytes + 2 * head * part_bytes;
                    let (keys, values) = kv[at..at + 2 * part_bytes].split_at_mut(part_bytes);
                    let (key, value) = (
                        random.floats(self.head_dim, 1.0),
                        random.floats(self.head_dim, scale),
                    );
                    store_key(self.kv_type, keys, pos % KV_TILE, &key);
                    store_value(self.kv_type, values, pos % KV_TILE, &value);
                }
            }
        }
        let query_rows: Vec<u32> = rows
            .iter()
            .flat_map(|&(seq, pos)| [pos as u32, (seq * table_len) as u32])
            .collect();
        PoolArgs {
            kv: case.bytes("kv", &kv),
            page_table: case.words("page_table", &pages),
            query_rows: case.words("query_rows", &query_rows),
            page_bytes: (layers * layer_bytes) as u64,
            layer_offset: (layer * layer_bytes) as u64,
            part_bytes: part_bytes as u32,
            n_kv_heads: self.n_kv_heads as u32,
        }
    }
}

#[test]
fn a_few_rows_attend_as_defined() {
    for seed in 0..48 {
        let Some(mut case) = Case::new() else {
            return;
        };
        let random = &mut Random::new(seed);
        let drawn = Drawn::new(random, &[1, 1, 2, 3, 4, 5, 7, 8, 9, 16]);
        let n_rows = 1 + random.below(3);
        let rows: Vec<_> = (0..n_rows)
            .map(|_| (random.below(2), random.of(&POSITIONS)))
            .collect();
        // Slots of all spans up to the row's, as layers without a window have them, or only of what is attended to.
        let whole = random.one_in(2);
        let (mut slots, mut row_slots) = (Vec::new(), vec![0]);
        for (i, &(_, pos)) in rows.iter().enumerate() {
            let start = match drawn.window {
                0 => 0,
                _ if whole => 0,
                window => (pos + 1).saturating_sub(window),
            };
            slots.extend(spans(&(start..pos + 1)).map(|span| [i as u32, span as u32]));
            row_slots.push(slots.len() as u32);
        }
        let (n_slots, n_heads) = (slots.len(), drawn.n_heads());
        // A grid of more blocks than there are slots, whose places nobody may read or write.
        let most = n_slots.next_power_of_two() + random.of(&[0, 1, 3]);
        let mut args = AttendArgs {
            q: drawn.q(&mut case, random, n_rows),
            states: case.room("states", 4 * n_slots * n_heads * (drawn.head_dim + 2)),
            pool: drawn.pool(&mut case, random, &rows),
            slots: case.words("slots", slots.as_flattened()),
            n_slots: case.words("n_slots", &[n_slots as u32]),
            window: drawn.window as u32,
            n_heads: n_heads as u32,
            head_dim: drawn.head_dim as u32,
            q_stride: drawn.q_stride as u32,
            scale: drawn.scale(),
            heads: 0,
        };
        // A device that has room for a block for each head, or not.
        let shape = args.shape(most as u32, random.of(&[1, 1, 1000]));
        let launch = Launch::new(Kernel::Attend(drawn.kv_type), shape, &args);
        let what = format!("seed {seed}: {:?}, {rows:?}, {args:?}", drawn.kv_type);
        case.check(&launch, &what);

        let out_stride = n_heads * drawn.head_dim + random.of(&[0, 1, 64]);
        let args = AttendMergeArgs {
            states: args.states,
            row_slots: case.words("row_slots", &row_slots),
            out: case.room("out", 4 * n_rows * out_stride),
            n_heads: n_heads as u32,
            head_dim: drawn.head_dim as u32,
            out_stride: out_stride as u32,
            pad: 0,
        };
        let launch = Launch::new(Kernel::AttendMerge, args.shape(n_rows as u32), &args);
        case.check(&launch, &what);
    }
}

#[test]
fn any_number_of_spans_merges_in_order_and_empty_ones_change_nothing() {
    for seed in 0..24 {
        let Some(mut case) = Case::new() else {
            return;
        };
        let random = &mut Random::new(seed);
        let (head_dim, n_heads, n_rows) = (random.of(&HEAD_DIMS), 1 + random.below(3), 2);
        let mut row_slots = vec![0];
        let mut states = Vec::new();
        for _ in 0..n_rows {
            let n = random.of(&[1, 2, 31, 33, 63, 64, 65, 128, 200]);
            let filled = random.below(n);
            let often = random.of(&[1, 2, 10]);
            row_slots.push(row_slots.last().unwrap() + n as u32);
            for slot in 0..n {
                for _ in 0..n_heads {
                    let mut state = random.floats(head_dim + 2, 4.0);
                    // Largest scores are no -0, and sums of weights at least 1.
                    state[head_dim] = state[head_dim] * 10.0 + 0.0;
                    state[head_dim + 1] = 1.0 + state[head_dim + 1].abs();
                    if slot != filled && !random.one_in(often) {
                        clear(&mut state);
                    }
                    states.extend(state);
                }
            }
        }
        let out_stride = n_heads * head_dim;
        let args = AttendMergeArgs {
            states: case.floats("states", &states),
            row_slots: case.words("row_slots", &row_slots),
            out: case.room("out", 4 * n_rows * out_stride),
            n_heads: n_heads as u32,
            head_dim: head_dim as u32,
            out_stride: out_stride as u32,
            pad: 0,
        };
        let launch = Launch::new(Kernel::AttendMerge, args.shape(n_rows as u32), &args);
        case.check(&launch, &format!("seed {seed}: {row_slots:?}, {args:?}"));
    }
}

#[test]
fn many_rows_attend_as_defined() {
    for seed in 0..48 {
        let Some(mut case) = Case::new() else {
            return;
        };
        let random = &mut Random::new(seed);
        let drawn = Drawn::new(random, &[1, 2, 3, 4, 5, 7, 8, 16, 64]);
        let most = AttendRowsArgs::block_rows(drawn.group as u32) as usize;
        // Runs of rows of one sequence; positions rise, not always by one.
        let (mut rows, mut blocks) = (Vec::new(), Vec::new());
        for seq in 0..1 + random.below(2) {
            let mut pos = random.of(&POSITIONS);
            let (n, gaps) = (1 + random.below(most + most / 2 + 1), random.one_in(3));
            // Rows by definition take their time.
            let n = n.min(24);
            for start in (0..n).step_by(most) {
                blocks.push([(rows.len() + start) as u32, (n - start).min(most) as u32]);
            }
            for _ in 0..n {
                rows.push((seq, pos));
                pos += 1 + if gaps { random.below(40) } else { 0 };
            }
        }
        let n_heads = drawn.n_heads();
        let out_stride = n_heads * drawn.head_dim + random.of(&[0, 2, 64]);
        let args = AttendRowsArgs {
            q: drawn.q(&mut case, random, rows.len()),
            out: case.room("out", 4 * rows.len() * out_stride),
            pool: drawn.pool(&mut case, random, &rows),
            row_blocks: case.words("row_blocks", blocks.as_flattened()),
            window: drawn.window as u32,
            n_heads: n_heads as u32,
            head_dim: drawn.head_dim as u32,
            q_stride: drawn.q_stride as u32,
            out_stride: out_stride as u32,
            scale: drawn.scale(),
        };
        let shape = args.shape(blocks.len() as u32);
        let launch = Launch::new(Kernel::AttendRows(drawn.kv_type), shape, &args);
        let what = format!(
            "seed {seed}: {:?}, {rows:?}, {blocks:?}, {args:?}",
            drawn.kv_type
        );
        case.check(&launch, &what);
    }
}

/// The two ways give the same: how a pass is shared out does not show.
#[test]
fn blocks_of_rows_and_spans_agree() {
    let Some(mut case) = Case::new() else {
        return;
    };
    let random = &mut Random::new(1);
    let drawn = Drawn {
        kv_type: KvType::F16,
        head_dim: 64,
        group: 4,
        n_kv_heads: 2,
        window: 0,
        q_stride: 512,
    };
    let rows: Vec<_> = (0..6).map(|i| (0, KV_SPAN - 3 + i)).collect();
    let slots: Vec<u32> = (0..6)
        .flat_map(|row| {
            spans(&(0..rows[row as usize].1 + 1)).flat_map(move |span| [row, span as u32])
        })
        .collect();
    let mut row_slots = vec![0; 7];
    for slot in slots.chunks(2) {
        row_slots[slot[0] as usize + 1..]
            .iter_mut()
            .for_each(|n| *n += 1);
    }
    let n_slots = slots.len() / 2;
    let mut args = AttendArgs {
        q: drawn.q(&mut case, random, 6),
        states: case.room("states", 4 * n_slots * 8 * 66),
        pool: drawn.pool(&mut case, random, &rows),
        slots: case.words("slots", &slots),
        n_slots: case.words("n_slots", &[n_slots as u32]),
        window: 0,
        n_heads: 8,
        head_dim: 64,
        q_stride: 512,
        scale: drawn.scale(),
        heads: 0,
    };
    let of_slots = args.shape(n_slots as u32, 1);
    let of_rows = AttendRowsArgs {
        q: args.q,
        out: case.room("out of rows", 4 * 6 * 512),
        pool: args.pool,
        row_blocks: case.words("row_blocks", &[0, 6]),
        window: 0,
        n_heads: 8,
        head_dim: 64,
        q_stride: 512,
        out_stride: 512,
        scale: drawn.scale(),
    };
    let merged = AttendMergeArgs {
        states: args.states,
        row_slots: case.words("row_slots", &row_slots),
        out: case.room("out of slots", 4 * 6 * 512),
        n_heads: 8,
        head_dim: 64,
        out_stride: 512,
        pad: 0,
    };
    for launch in [
        Launch::new(Kernel::Attend(KvType::F16), of_slots, &args),
        Launch::new(Kernel::AttendMerge, merged.shape(6), &merged),
        Launch::new(Kernel::AttendRows(KvType::F16), of_rows.shape(1), &of_rows),
    ] {
        case.emulate(&launch, 3).unwrap();
    }
    let bits = |name| -> Vec<u32> {
        let floats = case.floats_of(name).into_iter();
        floats.map(f32::to_bits).collect()
    };
    assert_eq!(bits("out of slots"), bits("out of rows"));
    assert!(case.floats_of("out of rows").iter().all(|x| x.is_finite()));
}

#[test]
fn every_head_and_group_fits_into_shared_memory() {
    let mut most = BTreeMap::new();
    for head_dim in (2..=MAX_HEAD_DIM).step_by(2) {
        for group in 1..=MAX_QUERIES {
            let pool = PoolArgs {
                n_kv_heads: 1,
                ..PoolArgs::default()
            };
            let mut slots = AttendArgs {
                pool,
                n_heads: group,
                head_dim,
                ..AttendArgs::default()
            };
            let rows = AttendRowsArgs {
                pool,
                n_heads: group,
                head_dim,
                ..AttendRowsArgs::default()
            };
            for (kernel, shape) in [("attend", slots.shape(1, 1)), ("rows", rows.shape(1))] {
                assert!(
                    shape.threads == 128 || shape.threads == 256,
                    "{kernel}: {shape:?}"
                );
                let most = most.entry(kernel).or_insert(0);
                *most = shape.shared.max(*most);
            }
        }
    }
    // The limit is no more than is needed, else the test says nothing.
    for (kernel, most) in most {
        assert!(
            most <= MAX_SHARED && most > MAX_SHARED * 3 / 4,
            "{kernel}: {most}"
        );
    }
}

#[test]
fn a_state_that_is_merged_with_weights_of_one_is_unchanged() {
    // What the kernels' merge rests on: sums of an empty earlier state are -0, of an empty later one +0.
    for x in [0.0_f32, -0.0, 1.5, -3e-40, f32::MIN_POSITIVE] {
        assert_eq!(x.mul_add(1.0, -0.0 * 1.0).to_bits(), x.to_bits());
        assert_eq!(0.0_f32.mul_add(-1.0, x * 1.0).to_bits(), x.to_bits());
        let mut empty = [0.0; 3];
        clear(&mut empty);
        let full = [x, 0.5, 2.0];
        let mut into = full;
        merge(&mut into, &empty);
        assert_eq!(into.map(f32::to_bits), full.map(f32::to_bits));
    }
}
