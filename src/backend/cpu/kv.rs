//! The KV cache: pages from a pool that is allocated once.
//!
//! A page holds 64 positions of one sequence, all layers and KV heads (see
//! [`chaski_models::forward::kv`]). Sequences may share pages: each page counts its users, and a
//! sequence that is about to write into a page with other users gets a copy first.

use std::{error::Error, fmt, ops::Range};

use chaski_models::forward::kv::KvGeometry;
use chaski_quant::scalar::attention::KV_TILE;

use crate::os;

/// Bytes at whose multiples pages start: a cache line, a vector register.
const ALIGN: usize = 64;

/// All pages of the pool are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvFull {
    /// Pages of the pool.
    pub n_pages: usize,
}

impl fmt::Display for KvFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {} pages of the KV cache are in use", self.n_pages)
    }
}

impl Error for KvFull {}

/// Keys and values of some sequences.
#[derive(Debug)]
pub struct KvCache {
    geometry: KvGeometry,
    /// The pool, with room to align it.
    bytes: Vec<u8>,
    start: usize,
    pages: PageTable,
}

/// A page whose bytes another one is to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCopy {
    /// The page that has them.
    pub from: u32,
    /// The page that is to have them.
    pub to: u32,
}

/// Which page holds which positions of which sequence. One table serves all machines that a model's
/// layers are on, each of which has the bytes of its own layers.
#[derive(Debug)]
pub struct PageTable {
    max_seq_pages: usize,
    /// `[n_seqs, max_seq_pages]`; of a sequence the first `n_pages(len)` count.
    pages: Vec<u32>,
    /// Positions stored of each sequence.
    lens: Vec<usize>,
    /// Sequences that use a page, for each page.
    n_users: Vec<u32>,
    /// Pages without users; the last is used next.
    free: Vec<u32>,
}

impl KvCache {
    /// A cache of `n_pages` pages for `n_seqs` sequences of up to `context_len` positions.
    ///
    /// The system gives the memory when a page is first written.
    pub fn new(geometry: KvGeometry, n_pages: usize, n_seqs: usize, context_len: usize) -> Self {
        let bytes = vec![0_u8; n_pages * geometry.page_bytes() + ALIGN];
        os::prefer_huge_pages(&bytes);
        let start = bytes.as_ptr().align_offset(ALIGN);
        // The most that `align_offset` may answer where it cannot tell; then nothing is aligned,
        // which costs time and nothing else.
        let start = if start < ALIGN { start } else { 0 };
        let max_seq_pages = KvGeometry::n_pages(context_len);
        let pages = PageTable {
            max_seq_pages,
            pages: vec![0; n_seqs * max_seq_pages],
            lens: vec![0; n_seqs],
            n_users: vec![0; n_pages],
            free: (0..n_pages as u32).rev().collect(),
        };
        Self {
            geometry,
            bytes,
            start,
            pages,
        }
    }

    /// Bytes that `new` with these arguments allocates.
    pub fn bytes(
        geometry: &KvGeometry,
        n_pages: usize,
        n_seqs: usize,
        context_len: usize,
    ) -> usize {
        let table = n_seqs * KvGeometry::n_pages(context_len) * 4;
        n_pages * (geometry.page_bytes() + 8) + ALIGN + table + n_seqs * size_of::<usize>()
    }

    /// Shape of the pages.
    pub fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    /// The pages' bytes, `[n_pages, page_bytes]`, to be written, and where to find what.
    pub(crate) fn parts_mut(&mut self) -> (&mut [u8], &PageTable) {
        let len = self.pages.n_pages() * self.geometry.page_bytes();
        (&mut self.bytes[self.start..self.start + len], &self.pages)
    }

    /// Where to find what.
    pub fn pages(&self) -> &PageTable {
        &self.pages
    }

    /// Makes room to write positions `positions` of sequence `seq`, whose later positions are
    /// forgotten: pages that are missing are taken from the pool, a page that others use is copied.
    /// Gives the copy that was made: another machine that has bytes of the same pages is to do it too.
    ///
    /// # Errors
    ///
    /// If the pool has no page left; the sequence then ends where `positions` start.
    ///
    /// # Panics
    ///
    /// If `positions` start past the sequence's end or leave its context.
    pub fn reserve(
        &mut self,
        seq: usize,
        positions: Range<usize>,
    ) -> Result<Option<PageCopy>, KvFull> {
        let (n, start) = (self.geometry.page_bytes(), self.start);
        let copy = self.pages.reserve(seq, positions)?;
        if let Some(PageCopy { from, to }) = copy {
            let from = start + from as usize * n;
            self.bytes
                .copy_within(from..from + n, start + to as usize * n);
        }
        Ok(copy)
    }

    /// Forgets all positions of `seq` from `len` on.
    pub fn truncate(&mut self, seq: usize, len: usize) {
        self.pages.truncate(seq, len);
    }

    /// Makes sequence `to` a copy of the first `len` positions of sequence `from`, sharing its pages.
    ///
    /// # Panics
    ///
    /// If `from` has fewer positions or is `to`.
    pub fn fork(&mut self, from: usize, to: usize, len: usize) {
        self.pages.fork(from, to, len);
    }
}

impl PageTable {
    /// Pages of the pool.
    pub fn n_pages(&self) -> usize {
        self.n_users.len()
    }

    /// Pages that no sequence uses.
    pub fn n_free(&self) -> usize {
        self.free.len()
    }

    /// Positions stored of sequence `seq`.
    pub fn len(&self, seq: usize) -> usize {
        self.lens[seq]
    }

    /// Whether nothing is stored of sequence `seq`.
    pub fn is_empty(&self, seq: usize) -> bool {
        self.lens[seq] == 0
    }

    /// The page that holds positions `64 tile .. 64 tile + 64` of sequence `seq`.
    pub(crate) fn page(&self, seq: usize, tile: usize) -> usize {
        debug_assert!(
            tile * KV_TILE < self.lens[seq],
            "tile {tile} of {}",
            self.lens[seq]
        );
        self.pages[seq * self.max_seq_pages + tile] as usize
    }

    /// As [`KvCache::reserve`]; whoever holds bytes of pages is to do the copy that it tells of, if it
    /// does, before anything else is written.
    fn reserve(&mut self, seq: usize, positions: Range<usize>) -> Result<Option<PageCopy>, KvFull> {
        let Range { start, end } = positions;
        assert!(start <= self.lens[seq], "a hole before position {start}");
        assert!(
            end <= self.max_seq_pages * KV_TILE,
            "position {end} of a context"
        );
        self.truncate(seq, start);
        // The pages that are missing first: where there are not enough, nothing is to be copied.
        let missing = KvGeometry::n_pages(start)..KvGeometry::n_pages(end);
        let shared = (end > start && !start.is_multiple_of(KV_TILE))
            .then(|| seq * self.max_seq_pages + start / KV_TILE)
            .filter(|&slot| self.n_users[self.pages[slot] as usize] > 1);
        if self.free.len() < missing.len() + usize::from(shared.is_some()) {
            return Err(KvFull {
                n_pages: self.n_users.len(),
            });
        }
        let copy = match shared {
            Some(slot) => Some(self.own_page(slot)?),
            None => None,
        };
        for index in missing {
            let page = self.take()?;
            self.pages[seq * self.max_seq_pages + index] = page;
        }
        self.lens[seq] = end.max(start);
        Ok(copy)
    }

    /// Gives a sequence a page of its own in place of one that others use too.
    fn own_page(&mut self, slot: usize) -> Result<PageCopy, KvFull> {
        let (from, to) = (self.pages[slot], self.take()?);
        self.release(from);
        self.pages[slot] = to;
        Ok(PageCopy { from, to })
    }

    fn take(&mut self) -> Result<u32, KvFull> {
        let page = self.free.pop().ok_or(KvFull {
            n_pages: self.n_users.len(),
        })?;
        self.n_users[page as usize] = 1;
        Ok(page)
    }

    /// The pages of sequence `seq`, in the order of its positions.
    pub(crate) fn of(&self, seq: usize) -> &[u32] {
        let n = KvGeometry::n_pages(self.lens[seq]);
        &self.pages[seq * self.max_seq_pages..][..n]
    }

    fn release(&mut self, page: u32) {
        let n_users = &mut self.n_users[page as usize];
        *n_users -= 1;
        if *n_users == 0 {
            self.free.push(page);
        }
    }

    fn truncate(&mut self, seq: usize, len: usize) {
        let first = seq * self.max_seq_pages;
        for index in (KvGeometry::n_pages(len)..KvGeometry::n_pages(self.lens[seq])).rev() {
            self.release(self.pages[first + index]);
        }
        self.lens[seq] = self.lens[seq].min(len);
    }

    fn fork(&mut self, from: usize, to: usize, len: usize) {
        assert!(
            from != to && len <= self.lens[from],
            "{len} positions of sequence {from}"
        );
        self.truncate(to, 0);
        let (from, to_first) = (from * self.max_seq_pages, to * self.max_seq_pages);
        for index in 0..KvGeometry::n_pages(len) {
            let page = self.pages[from + index];
            self.n_users[page as usize] += 1;
            self.pages[to_first + index] = page;
        }
        self.lens[to] = len;
    }
}

#[cfg(test)]
mod tests {
    use chaski_quant::scalar::attention::KvType;

    use super::*;

    const GEOMETRY: KvGeometry = KvGeometry {
        kv_type: KvType::Q8,
        n_layers: 2,
        n_kv_heads: 3,
        head_dim: 10,
    };

    fn cache(n_pages: usize) -> KvCache {
        KvCache::new(GEOMETRY, n_pages, 3, 200)
    }

    /// Every page is free or used as often as the sequences use it.
    fn check(cache: &KvCache) {
        let table = &cache.pages;
        let mut n_users = vec![0; table.n_pages()];
        for seq in 0..table.lens.len() {
            (0..KvGeometry::n_pages(table.len(seq))).for_each(|t| n_users[table.page(seq, t)] += 1);
        }
        assert_eq!(n_users, table.n_users);
        let mut free = table.free.clone();
        free.sort_unstable();
        let unused: Vec<u32> = (0..table.n_pages() as u32)
            .filter(|p| n_users[*p as usize] == 0)
            .collect();
        assert_eq!(free, unused);
    }

    #[test]
    fn pages_come_from_the_pool_and_go_back() {
        let mut cache = cache(4);
        cache.reserve(0, 0..65).unwrap();
        cache.reserve(1, 0..64).unwrap();
        assert_eq!(
            (
                cache.pages().len(0),
                cache.pages().len(1),
                cache.pages().n_free()
            ),
            (65, 64, 1)
        );
        check(&cache);
        cache.reserve(0, 65..128).unwrap();
        assert_eq!(cache.pages().n_free(), 1);
        assert_eq!(cache.reserve(1, 64..200), Err(KvFull { n_pages: 4 }));
        assert_eq!((cache.pages().len(1), cache.pages().n_free()), (64, 1));
        check(&cache);
        // Going back forgets what follows.
        cache.reserve(0, 10..11).unwrap();
        assert_eq!((cache.pages().len(0), cache.pages().n_free()), (11, 2));
        cache.truncate(1, 0);
        assert!(cache.pages().is_empty(1));
        cache.truncate(0, 100);
        assert_eq!(cache.pages().len(0), 11);
        check(&cache);
    }

    #[test]
    fn a_shared_page_is_copied_before_it_is_written() {
        let mut cache = cache(6);
        cache.reserve(0, 0..100).unwrap();
        let n = GEOMETRY.page_bytes();
        let second = cache.pages().page(0, 1);
        cache.parts_mut().0[second * n..][..n].fill(7);
        cache.fork(0, 1, 70);
        cache.fork(0, 2, 64);
        check(&cache);
        assert_eq!(cache.pages().n_free(), 4);
        let copy = cache.reserve(1, 70..71).unwrap();
        check(&cache);
        let own = cache.pages().page(1, 1);
        let (from, to) = (second as u32, own as u32);
        assert_eq!(copy, Some(PageCopy { from, to }));
        assert_ne!(own, second);
        assert!(cache.parts_mut().0[own * n..][..n].iter().all(|b| *b == 7));
        assert_eq!(cache.pages().page(1, 0), cache.pages().page(0, 0));
        // Sequence 2 ends with its page, so it writes none that is shared.
        assert_eq!(cache.reserve(2, 64..65), Ok(None));
        assert_eq!(cache.pages().n_free(), 2);
        // Sequence 0 is alone with its second page again.
        cache.reserve(0, 100..101).unwrap();
        assert_eq!(cache.pages().page(0, 1), second);
        check(&cache);
    }

    #[test]
    fn pages_are_aligned_and_counted() {
        let mut cache = cache(3);
        let bytes = cache.parts_mut().0;
        assert_eq!(bytes.as_ptr() as usize % ALIGN, 0);
        assert_eq!(bytes.len(), 3 * GEOMETRY.page_bytes());
        assert_eq!(GEOMETRY.page_bytes() % ALIGN, 0);
        let vecs = cache.bytes.capacity()
            + 4 * (cache.pages.pages.capacity() + cache.pages.n_users.capacity())
            + 4 * cache.pages.free.capacity()
            + 8 * cache.pages.lens.capacity();
        assert_eq!(KvCache::bytes(&GEOMETRY, 3, 3, 200), vecs);
    }
}
