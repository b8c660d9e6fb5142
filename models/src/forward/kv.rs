//! Where keys and values lie, for every backend.
//!
//! A *page* holds the keys and values of [`KV_TILE`] absolute positions, all layers and KV heads:
//!
//! ```text
//! page   [n_layers][n_kv_heads] KV tiles
//! tile   key part, value part; each a multiple of 64 bytes
//! ```
//!
//! Page `p` of a sequence holds its positions `64 p .. 64 p + 64`. See
//! [`chaski_quant::scalar::attention`] for the bytes of a part.

use std::ops::Range;

use chaski_quant::scalar::attention::{KV_SPAN, KV_TILE, KvTile, KvType};

use crate::Config;

/// Shape of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvGeometry {
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Number of layers.
    pub n_layers: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl KvGeometry {
    /// The cache of a model.
    pub const fn new(config: &Config, kv_type: KvType) -> Self {
        Self {
            kv_type,
            n_layers: config.n_layers,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
        }
    }

    /// Bytes of a tile's key part, and of its value part.
    pub const fn part_bytes(&self) -> usize {
        self.kv_type.part_bytes(self.head_dim)
    }

    /// Bytes of a tile: one layer, one KV head.
    pub const fn tile_bytes(&self) -> usize {
        2 * self.part_bytes()
    }

    /// Bytes of a page.
    pub const fn page_bytes(&self) -> usize {
        self.n_layers * self.n_kv_heads * self.tile_bytes()
    }

    /// Pages that `n` positions of one sequence need.
    pub const fn n_pages(n: usize) -> usize {
        n.div_ceil(KV_TILE)
    }

    /// The bytes of a page that hold the keys of one layer and KV head; its values follow.
    pub const fn key_range(&self, layer: usize, kv_head: usize) -> Range<usize> {
        let start = (layer * self.n_kv_heads + kv_head) * self.tile_bytes();
        start..start + self.part_bytes()
    }

    /// The bytes of a page that hold the values of one layer and KV head.
    pub const fn value_range(&self, layer: usize, kv_head: usize) -> Range<usize> {
        let start = self.key_range(layer, kv_head).end;
        start..start + self.part_bytes()
    }

    /// One tile of a page.
    ///
    /// # Panics
    ///
    /// If there is no such layer or head, or `page` is no whole page.
    pub fn tile<'a>(&self, page: &'a [u8], layer: usize, kv_head: usize) -> KvTile<'a> {
        assert!(
            layer < self.n_layers && kv_head < self.n_kv_heads,
            "layer {layer} head {kv_head}"
        );
        assert_eq!(page.len(), self.page_bytes(), "bytes of a page");
        KvTile {
            kv_type: self.kv_type,
            head_dim: self.head_dim,
            keys: &page[self.key_range(layer, kv_head)],
            values: &page[self.value_range(layer, kv_head)],
            ahead: &[],
        }
    }
}

/// Positions of one tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TilePart {
    /// The tile, which is the page: positions `64 tile .. 64 tile + 64`.
    pub tile: usize,
    /// First position within the tile.
    pub lo: usize,
    /// Position after the last, within the tile.
    pub hi: usize,
}

impl TilePart {
    /// The span that the tile belongs to.
    pub const fn span(&self) -> usize {
        self.tile / (KV_SPAN / KV_TILE)
    }
}

/// The spans that absolute positions touch.
pub const fn spans(positions: &Range<usize>) -> Range<usize> {
    if positions.start >= positions.end {
        return 0..0;
    }
    positions.start / KV_SPAN..(positions.end - 1) / KV_SPAN + 1
}

/// The tiles that absolute positions touch, in order, and which of their positions.
pub fn tile_parts(positions: Range<usize>) -> impl Iterator<Item = TilePart> {
    let tiles = if positions.is_empty() {
        0..0
    } else {
        positions.start / KV_TILE..(positions.end - 1) / KV_TILE + 1
    };
    tiles.map(move |tile| TilePart {
        tile,
        lo: positions.start.saturating_sub(tile * KV_TILE),
        hi: (positions.end - tile * KV_TILE).min(KV_TILE),
    })
}

/// As [`tile_parts`], only the tiles of one span.
pub fn span_parts(positions: Range<usize>, span: usize) -> impl Iterator<Item = TilePart> {
    let start = positions.start.max(span * KV_SPAN);
    let end = positions.end.min((span + 1) * KV_SPAN);
    tile_parts(start..end.max(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_positions_once_and_spans_cover_the_parts() {
        for (start, end) in [
            (0, 0),
            (5, 5),
            (0, 1),
            (0, 64),
            (63, 65),
            (100, 1500),
            (511, 513),
        ] {
            let parts: Vec<_> = tile_parts(start..end).collect();
            let positions: Vec<_> = parts
                .iter()
                .flat_map(|p| (p.lo..p.hi).map(|i| p.tile * KV_TILE + i))
                .collect();
            assert_eq!(positions, (start..end).collect::<Vec<_>>());
            assert!(parts.iter().all(|p| p.lo < p.hi));
            let by_span: Vec<_> = spans(&(start..end))
                .flat_map(|s| span_parts(start..end, s))
                .collect();
            assert_eq!(by_span, parts);
            for span in spans(&(start..end)) {
                assert!(span_parts(start..end, span).all(|p| p.span() == span));
                assert!(span_parts(start..end, span).next().is_some());
            }
        }
    }

    #[test]
    fn the_parts_of_a_page_are_aligned_and_fill_it() {
        for kv_type in [KvType::F32, KvType::F16, KvType::Q8] {
            let g = KvGeometry {
                kv_type,
                n_layers: 3,
                n_kv_heads: 2,
                head_dim: 18,
            };
            let mut end = 0;
            for layer in 0..3 {
                for head in 0..2 {
                    for part in [g.key_range(layer, head), g.value_range(layer, head)] {
                        assert_eq!((part.start, part.start % 64), (end, 0), "{kv_type:?}");
                        end = part.end;
                    }
                }
            }
            assert_eq!(end, g.page_bytes());
        }
        assert_eq!([0, 1, 64, 65].map(KvGeometry::n_pages), [0, 1, 1, 2]);
    }
}
