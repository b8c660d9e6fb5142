//! Cutting a conversion into chunks of bounded size.
//!
//! A chunk is what is read, quantised and written at a time. Chunks only bound the memory: tiles
//! are quantised one by one and written in file order, so the bytes of the file do not depend on
//! where the cuts are.

use std::ops::Range;

use chaski_quant::{TILE_ROWS, TensorLayout};

use crate::source::RowOrder;

/// A tensor as the schedule sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Bytes of one row in the source.
    pub(crate) row_bytes: usize,
    /// How the rows of the source are ordered.
    pub(crate) order: RowOrder,
    /// What the file holds of it.
    pub(crate) shape: Shape,
}

/// What the file holds of a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// Tiles; `paired`: they alternate with those of the next tensor, which has as many.
    Matrix { layout: TensorLayout, paired: bool },
    /// So many `f32`.
    Vector { len: usize },
}

/// A part of a tensor: tiles `tiles` of a matrix (0..1 of a vector), the rows of the source that
/// they need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Index of the tensor.
    pub(crate) tensor: usize,
    pub(crate) tiles: Range<usize>,
    /// Contiguous rows of the source.
    pub(crate) rows: Range<usize>,
    /// Whether the tiles alternate with those of the next segment.
    pub(crate) paired: bool,
}

/// Segments that are read, quantised and written together.
pub(crate) type Chunk = Vec<Segment>;

impl Work {
    /// The smallest number of tiles whose rows are contiguous in the source.
    pub(crate) fn unit(&self) -> usize {
        match (self.shape, self.order) {
            (Shape::Matrix { layout, .. }, RowOrder::InterleavedRotary { head_dim }) => {
                if layout.row_group() == head_dim {
                    layout.tiles_per_group()
                } else if layout.row_group().is_multiple_of(head_dim)
                    && head_dim.is_multiple_of(TILE_ROWS)
                {
                    head_dim / TILE_ROWS
                } else {
                    layout.n_tiles()
                }
            }
            _ => 1,
        }
    }

    fn n_tiles(&self) -> usize {
        match self.shape {
            Shape::Matrix { layout, .. } => layout.n_tiles(),
            Shape::Vector { .. } => 1,
        }
    }

    /// The larger of the bytes that a tile takes in the source and in the file.
    fn tile_cost(&self) -> usize {
        match self.shape {
            Shape::Matrix { layout, .. } => layout
                .tile_bytes()
                .max(TILE_ROWS.min(layout.rows()) * self.row_bytes),
            Shape::Vector { len } => self.row_bytes.max(len * 4),
        }
    }

    /// The rows of some tiles.
    pub(crate) fn rows(&self, tiles: &Range<usize>) -> Range<usize> {
        match self.shape {
            Shape::Matrix { layout, .. } => {
                layout.tile_rows(tiles.start).start..layout.tile_rows(tiles.end - 1).end
            }
            Shape::Vector { .. } => 0..1,
        }
    }

    /// Bytes that the worker of one tile holds besides the chunk: the tile's rows as floats, and as
    /// much again for the quantiser.
    pub(crate) fn scratch_bytes(&self) -> usize {
        match self.shape {
            Shape::Matrix { layout, .. } => 2 * 4 * TILE_ROWS * layout.cols_padded(),
            Shape::Vector { len } => 4 * len,
        }
    }
}

/// Cuts `work` into chunks of at most `budget` bytes (in the source and in the file, each), or of
/// one unit where that is larger.
pub(crate) fn schedule(work: &[Work], budget: usize) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut chunk = Chunk::new();
    let mut used = 0;
    let mut next = 0;
    while let Some(first) = work.get(next) {
        let paired = matches!(first.shape, Shape::Matrix { paired: true, .. });
        let group = &work[next..next + 1 + usize::from(paired)];
        let (unit, n_tiles) = (first.unit(), first.n_tiles());
        debug_assert!(
            group
                .iter()
                .all(|w| w.unit() == unit && w.n_tiles() == n_tiles)
        );
        let unit_cost = unit * group.iter().map(Work::tile_cost).sum::<usize>();
        let mut tile = 0;
        while tile < n_tiles {
            let room = budget.saturating_sub(used) / unit_cost;
            if room == 0 && used > 0 {
                chunks.push(std::mem::take(&mut chunk));
                used = 0;
                continue;
            }
            let units = room.clamp(1, (n_tiles - tile).div_ceil(unit));
            let tiles = tile..(tile + units * unit).min(n_tiles);
            for (i, w) in group.iter().enumerate() {
                chunk.push(Segment {
                    tensor: next + i,
                    rows: w.rows(&tiles),
                    tiles: tiles.clone(),
                    paired: paired && i == 0,
                });
            }
            used += units * unit_cost;
            tile = tiles.end;
        }
        next += group.len();
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

/// The same for the tensors `range` only.
pub(crate) fn schedule_range(work: &[Work], range: Range<usize>, budget: usize) -> Vec<Chunk> {
    let mut chunks = schedule(&work[range.clone()], budget);
    for segment in chunks.iter_mut().flatten() {
        segment.tensor += range.start;
    }
    chunks
}

/// The row of the source that holds row `row` of the model.
pub(crate) fn stored_row(order: RowOrder, row: usize) -> usize {
    match order {
        RowOrder::AsStored => row,
        RowOrder::InterleavedRotary { head_dim } => {
            let half = head_dim / 2;
            let (head, i) = (row / head_dim, row % head_dim);
            head * head_dim + 2 * (i % half) + i / half
        }
    }
}

#[cfg(test)]
mod tests {
    use chaski_quant::QuantType;

    use super::*;

    fn matrix(rows: usize, cols: usize, group: usize, order: RowOrder, paired: bool) -> Work {
        let layout = TensorLayout::grouped(QuantType::Q4, rows, cols, group).unwrap();
        Work {
            row_bytes: cols * 2,
            order,
            shape: Shape::Matrix { layout, paired },
        }
    }

    #[test]
    fn chunks_cover_every_tile_once_in_order_and_stay_in_their_budget() {
        let rotary = |head_dim| RowOrder::InterleavedRotary { head_dim };
        let work = [
            matrix(1000, 64, 1000, RowOrder::AsStored, false),
            Work {
                row_bytes: 128,
                order: RowOrder::AsStored,
                shape: Shape::Vector { len: 64 },
            },
            matrix(60, 64, 20, rotary(20), false),
            matrix(128, 64, 128, rotary(32), false),
            matrix(160, 64, 160, RowOrder::AsStored, true),
            matrix(160, 64, 160, RowOrder::AsStored, false),
            matrix(16, 64, 16, RowOrder::AsStored, false),
        ];
        for budget in [1, 5000, 20_000, 1 << 30] {
            let chunks = schedule(&work, budget);
            let mut tiles = vec![0; work.len()];
            let mut rows = vec![0; work.len()];
            for chunk in &chunks {
                let mut bytes = 0;
                for (i, s) in chunk.iter().enumerate() {
                    assert_eq!(s.tiles.start, tiles[s.tensor], "{s:?} at {budget}");
                    assert_eq!(s.rows.start, rows[s.tensor], "{s:?} at {budget}");
                    (tiles[s.tensor], rows[s.tensor]) = (s.tiles.end, s.rows.end);
                    bytes += s.rows.len() * work[s.tensor].row_bytes;
                    if s.paired {
                        assert_eq!(chunk[i + 1].tiles, s.tiles);
                        assert_eq!(chunk[i + 1].tensor, s.tensor + 1);
                    }
                    if let RowOrder::InterleavedRotary { head_dim } = work[s.tensor].order {
                        assert!(s.rows.end.is_multiple_of(head_dim), "{s:?} cuts a head");
                    }
                }
                let units = chunk.iter().filter(|s| !s.paired).count();
                assert!(bytes <= budget || units == 1, "{bytes} bytes of {budget}");
            }
            for (w, (&tiles, &rows)) in work.iter().zip(tiles.iter().zip(&rows)) {
                assert_eq!(tiles, w.n_tiles());
                if let Shape::Matrix { layout, .. } = w.shape {
                    assert_eq!(rows, layout.rows());
                }
            }
            assert_eq!(
                chunks.len() == 1,
                budget == 1 << 30,
                "{budget}: {}",
                chunks.len()
            );
        }
    }

    #[test]
    fn rotary_rows_are_put_back_within_their_head() {
        let order = RowOrder::InterleavedRotary { head_dim: 6 };
        let got: Vec<_> = (0..12).map(|row| stored_row(order, row)).collect();
        assert_eq!(got, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
        assert_eq!(stored_row(RowOrder::AsStored, 7), 7);
    }
}
