use chaski_quant::scalar::attention::KvType;

use super::*;

const STEPS: [Step; 13] = [
    Step::Embed,
    Step::NormAttn,
    Step::Qkv,
    Step::Attend,
    Step::Merge,
    Step::QuantAttn,
    Step::AttnOutput,
    Step::NormFfn,
    Step::GateUp,
    Step::Down,
    Step::NormHead,
    Step::Head,
    Step::End,
];

fn bufs() -> Vec<Buf> {
    let planes = [Plane::Floats, Plane::Codes, Plane::Scales, Plane::Sums];
    let mut bufs = vec![
        Buf::X,
        Buf::Rope,
        Buf::Q,
        Buf::Kv,
        Buf::States,
        Buf::Logits,
        Buf::Scratch,
    ];
    for of in [Buf::Norm, Buf::Attn, Buf::Ffn] {
        bufs.extend(planes.map(of));
    }
    bufs
}

/// Odd sizes, so that blocks at edges are cut.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for n_workers in [1, 2, 3, 7, 16] {
        for (n_rows, n_head_rows) in [(1, 0), (1, 1), (5, 1), (5, 3), (19, 0), (19, 19)] {
            for attend in [
                AttendBy::Rows { block_rows: 1 },
                AttendBy::Rows { block_rows: 4 },
                AttendBy::Spans {
                    n_slots: n_rows + 3,
                },
            ] {
                for (n_heads, n_kv_heads, head_dim) in [(6, 2, 10), (4, 4, 16), (1, 1, 32)] {
                    let kv = KvGeometry {
                        kv_type: KvType::Q8,
                        n_layers: 2,
                        n_kv_heads,
                        head_dim,
                    };
                    for rounded in [false, true] {
                        shapes.push(Shape {
                            begin: Begin::Tokens,
                            n_workers,
                            n_rows,
                            n_head_rows,
                            attend,
                            dim: 72,
                            ffn_dim: 100,
                            n_heads,
                            vocab_size: 53,
                            kv,
                            n_pages: 2,
                            observed: false,
                            rounded,
                        });
                    }
                }
            }
        }
    }
    shapes
}

/// How many rows the grid of a written buffer has.
fn n_grid_rows(shape: &Shape, step: Step, buf: Buf) -> usize {
    match (step, buf) {
        (_, Buf::Kv) => shape.n_pages * shape.kv.n_layers,
        (_, Buf::Logits) | (Step::NormHead, _) => shape.n_head_rows,
        (_, Buf::States) => match shape.attend {
            AttendBy::Spans { n_slots } => n_slots,
            AttendBy::Rows { .. } => 0,
        },
        _ => shape.n_rows,
    }
}

#[test]
fn every_written_element_has_exactly_one_owner() {
    for shape in shapes() {
        for step in STEPS {
            let owners: Vec<Units> = (0..shape.n_workers).map(|w| shape.units(step, w)).collect();
            for buf in bufs() {
                let Access::Write(grid) = shape.access(step, buf) else {
                    continue;
                };
                let (n_rows, what) = (n_grid_rows(&shape, step, buf), (step, buf, &shape));
                assert!(grid.cols <= grid.stride, "{what:?}");
                for row in 0..n_rows {
                    // Parts are checked at the block's edges only, so a step must be one column.
                    for col in 0..grid.cols {
                        let unit = grid.unit(row, col);
                        let n = owners.iter().filter(|u| u.contains(unit)).count();
                        assert_eq!(n, 1, "row {row} column {col}: {what:?}");
                        let before = grid.unit(row, col.saturating_sub(1));
                        assert!(unit == before || unit == before + 1, "{what:?}");
                    }
                }
                let last = n_rows
                    .checked_sub(1)
                    .map_or(0, |r| r * grid.stride + grid.cols);
                assert!(last <= shape.len(buf), "the length of {what:?}");
            }
        }
    }
}

#[test]
fn the_units_of_all_workers_are_all_units_once() {
    for shape in shapes() {
        for step in STEPS {
            let mut all: Vec<usize> = (0..shape.n_workers)
                .flat_map(|w| shape.units(step, w))
                .collect();
            all.sort_unstable();
            let (n, _) = shape.n_units(step);
            assert_eq!(all, (0..n).collect::<Vec<_>>(), "{step:?} of {shape:?}");
            for worker in 0..shape.n_workers {
                let units = shape.units(step, worker);
                assert!((0..n).all(|u| units.contains(u) == units.clone().any(|v| v == u)));
            }
        }
    }
}

#[test]
fn the_steps_of_a_pass_end_and_pass_all_layers() {
    for shape in shapes() {
        let (mut at, mut qkv_layers, mut n) = ((Step::Embed, 0), Vec::new(), 0);
        while at.0 != Step::End {
            if at.0 == Step::Qkv {
                qkv_layers.push(at.1);
            }
            at = shape.next(at.0, at.1);
            n += 1;
            assert!(n < 40, "{shape:?}");
        }
        assert_eq!(qkv_layers, [0, 1]);
        // One row: the five phases of a layer, a step for the embedding, one for the head.
        if shape.each_norms() && matches!(shape.attend, AttendBy::Rows { .. }) {
            assert_eq!(n, 1 + 2 * 5 + shape.n_head_rows);
        }
    }
}

#[test]
fn a_pass_without_layers_is_the_embedding_and_the_head_or_the_head_alone() {
    for shape in shapes() {
        let kv = KvGeometry {
            n_layers: 0,
            ..shape.kv
        };
        let steps = |begin| {
            let shape = Shape { begin, kv, ..shape };
            let (mut at, mut steps) = ((shape.first_step(), 0), Vec::new());
            while at.0 != Step::End {
                steps.push(at.0);
                at = shape.next(at.0, at.1);
            }
            steps
        };
        let head: &[Step] = match (shape.n_head_rows, shape.each_norms_head()) {
            (0, _) => &[],
            (_, true) => &[Step::Head],
            (_, false) => &[Step::NormHead, Step::Head],
        };
        assert_eq!(steps(Begin::Hidden), head);
        assert_eq!(steps(Begin::Tokens), [&[Step::Embed], head].concat());
    }
}

#[test]
fn every_buffer_has_a_bit_of_its_own() {
    let bits = bufs().into_iter().fold(0, |bits: u32, b| {
        assert_eq!(bits & b.bit(), 0, "{b:?}");
        bits | b.bit()
    });
    assert_eq!(bits.count_ones() as usize, bufs().len());
}

#[test]
fn units_within_a_range_are_those_that_are_in_it() {
    for deal in [Deal::Stretches, Deal::Turns] {
        for (n_units, n_workers) in [(0, 1), (1, 3), (7, 1), (7, 2), (24, 5)] {
            for worker in 0..n_workers {
                let units = Units::new(deal, n_units, worker, n_workers);
                for start in 0..=n_units + 2 {
                    for end in start..=n_units + 2 {
                        let want: Vec<usize> =
                            units.filter(|unit| (start..end).contains(unit)).collect();
                        let got = units.within(start..end);
                        assert!(got.eq(want), "{start}..{end} of {units:?}");
                    }
                }
            }
        }
    }
}
