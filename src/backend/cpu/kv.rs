//! The KV cache: a pool of pages, allocated once.
//!
//! A page holds the keys and values of 64 positions (one KV tile) for every layer and KV head:
//! `[layer][kv head][key part, value part]`, the parts as [`chaski_quant::scalar::attention`] lays
//! them out. A sequence is a list of pages; pages are counted, so that sequences can share those of
//! an equal prefix.

use std::{error::Error, fmt, ops::Range};

use chaski_quant::scalar::attention::{KV_TILE, KvType};

use super::shared::Shared;

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Layers.
    pub n_layers: usize,
    /// KV heads of each layer.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Bytes of a page.
    pub const fn page_bytes(&self) -> usize {
        self.n_layers * self.n_kv_heads * 2 * self.kv_type.part_bytes(self.head_dim)
    }

    /// Pages that `context_len` positions take.
    pub const fn pages(&self, context_len: usize) -> usize {
        context_len.div_ceil(KV_TILE)
    }
}

/// All pages.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    bytes: Shared<u8>,
    /// How many sequences hold each page.
    holders: Vec<u32>,
    free: Vec<u32>,
}

/// No page is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfPages {
    /// Positions that all pages hold.
    pub positions: usize,
}

impl fmt::Display for OutOfPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the KV cache of {} positions is full", self.positions)
    }
}

impl Error for OutOfPages {}

impl KvCache {
    /// `n_pages` pages.
    pub fn new(shape: KvShape, n_pages: usize) -> Self {
        Self {
            shape,
            bytes: Shared::new(n_pages * shape.page_bytes()),
            holders: vec![0; n_pages],
            // The first page is handed out first.
            free: (0..n_pages as u32).rev().collect(),
        }
    }

    /// What a page holds.
    pub const fn shape(&self) -> KvShape {
        self.shape
    }

    /// A page that nobody holds.
    ///
    /// # Errors
    ///
    /// [`OutOfPages`].
    pub fn take(&mut self) -> Result<u32, OutOfPages> {
        let page = self.free.pop().ok_or(OutOfPages {
            positions: self.holders.len() * KV_TILE,
        })?;
        self.holders[page as usize] = 1;
        Ok(page)
    }

    /// Gives a page back.
    ///
    /// # Panics
    ///
    /// If nobody holds it.
    pub fn release(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        assert!(*holders > 0, "page {page} is released twice");
        *holders -= 1;
        if *holders == 0 {
            self.free.push(page);
        }
    }

    /// The bytes of all pages.
    pub(super) const fn bytes(&self) -> &Shared<u8> {
        &self.bytes
    }

    /// Where the key part (`value == false`) or the value part of a page, layer and head lies.
    pub(super) fn part(&self, page: u32, layer: usize, head: usize, value: bool) -> Range<usize> {
        let s = &self.shape;
        assert!(
            layer < s.n_layers && head < s.n_kv_heads,
            "layer {layer}, KV head {head}"
        );
        let part = s.kv_type.part_bytes(s.head_dim);
        let index = (layer * s.n_kv_heads + head) * 2 + usize::from(value);
        let start = page as usize * s.page_bytes() + index * part;
        start..start + part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_handed_out_once_and_parts_do_not_overlap() {
        let shape = KvShape {
            kv_type: KvType::Q8,
            n_layers: 2,
            n_kv_heads: 3,
            head_dim: 20,
        };
        let mut kv = KvCache::new(shape, 2);
        let (a, b) = (kv.take().unwrap(), kv.take().unwrap());
        assert_ne!(a, b);
        assert_eq!(kv.take().unwrap_err().positions, 128);
        let mut covered = vec![0; 2 * shape.page_bytes()];
        for page in [a, b] {
            for (layer, head) in (0..2).flat_map(|l| (0..3).map(move |h| (l, h))) {
                for value in [false, true] {
                    covered[kv.part(page, layer, head, value)]
                        .iter_mut()
                        .for_each(|c| *c += 1);
                }
            }
        }
        assert!(covered.iter().all(|&c| c == 1));
        kv.release(a);
        assert_eq!(kv.take().unwrap(), a);
    }
}
