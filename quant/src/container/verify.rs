//! The check of everything, tensors included.

use byteorder::{ByteOrder, LittleEndian};
use xxhash_rust::xxh3::Xxh3Default;

use super::{
    error::ContainerError,
    header::SectionKind,
    index::{Index, check_zero},
    plan::TensorKind,
    reader::{Container, TensorView},
};
use crate::tile::check_tile;

impl Container {
    /// Checks the whole file: all that [`Container::open`] checks, once more; the checksum of
    /// every tensor; that its tiles are such as a quantiser may write; the padding between tensors;
    /// that vectors are finite; and that no renewal of
    /// the metadata was cut short. A file in which any bit differs from what was written fails.
    ///
    /// * `progress`: called with the bytes of tensors checked so far and their total.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn verify(&self, mut progress: impl FnMut(u64, u64)) -> Result<(), ContainerError> {
        self.verify_index()?;
        let total = self.tensors().iter().map(|t| t.kind.bytes() as u64).sum();
        let mut done = 0;
        progress(done, total);
        for (index, tensor) in self.tensors().iter().enumerate() {
            self.verify_tensor(index)?;
            done += tensor.kind.bytes() as u64;
            progress(done, total);
        }
        Ok(())
    }

    /// The part of [`Container::verify`] that concerns no tensor's own bytes. Together with
    /// [`Container::verify_tensor`] for every tensor, in any order and on any thread, it is the
    /// whole.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn verify_index(&self) -> Result<(), ContainerError> {
        let file = self.bytes();
        if Index::parse(file)? != *self.index() {
            return Err(ContainerError::Changed);
        }
        if let Some(s) = self.index().header.section(SectionKind::Renewal) {
            return Err(ContainerError::RenewalCutShort {
                start: s.offset,
                end: s.end(),
            });
        }
        let data = self.data_range();
        let mut end = data.start;
        for index in 0..self.tensors().len() {
            let range = self.index().tensor_range(index);
            // The second tensor of an interleaved pair starts before the first one ends.
            check_zero(file, end.min(range.start)..range.start)?;
            end = end.max(range.end);
        }
        Ok(())
    }

    /// Checks the bytes of tensor `index`.
    ///
    /// # Errors
    ///
    /// Its checksum or its contents are wrong.
    ///
    /// # Panics
    ///
    /// If there is no such tensor.
    pub fn verify_tensor(&self, index: usize) -> Result<(), ContainerError> {
        let tensor = self.tensor_at(index);
        let name = || tensor.entry.name.clone();
        if hash(&tensor)? != tensor.entry.xxh3 {
            return Err(ContainerError::TensorChecksum { name: name() });
        }
        if let TensorKind::Vector { .. } = tensor.entry.kind {
            let finite = |bytes| LittleEndian::read_f32(bytes).is_finite();
            if let Some(index) = tensor.bytes.chunks_exact(4).position(|b| !finite(b)) {
                return Err(ContainerError::NotFinite {
                    name: name(),
                    index,
                });
            }
        } else {
            let (layout, tiles) = (tensor.layout()?, tensor.tiles()?);
            for tile in 0..tiles.n_tiles() {
                check_tile(layout, tile, tiles.tile(tile)).map_err(|source| {
                    ContainerError::Tile {
                        name: name(),
                        tile,
                        source,
                    }
                })?;
            }
        }
        Ok(())
    }
}

/// XXH3-64 of the tensor's own bytes.
fn hash(tensor: &TensorView<'_>) -> Result<u64, ContainerError> {
    let mut hash = Xxh3Default::new();
    if tensor.entry.is_interleaved() {
        let tiles = tensor.tiles()?;
        (0..tiles.n_tiles()).for_each(|i| hash.update(tiles.tile(i)));
    } else {
        hash.update(tensor.bytes);
    }
    Ok(hash.digest())
}
