//! Which tensors a file holds and where each of them lies.
//!
//! The same plan serves both sides: the writer follows it, and the reader makes it anew from what
//! the directory says and accepts no position that differs. So tensors cannot overlap, leave the
//! data or leave holes between them.

use super::{
    error::{ContainerError, InterleaveProblem, NameProblem},
    header::{DATA_ALIGN, SECTION_ALIGN, align_up},
};
use crate::{TILE_ALIGN, TensorLayout, layout::MAX_DIM};

/// The most tensors of a file. Llama-3.1-405B has 1,137.
pub const MAX_TENSORS: usize = 1 << 16;
/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// What a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// A matrix in tiles.
    Matrix(TensorLayout),
    /// A vector of plain `f32`.
    Vector {
        /// Number of elements.
        len: usize,
    },
}

impl TensorKind {
    /// Bytes of the tensor, without those that lie between its tiles.
    pub const fn bytes(&self) -> usize {
        match self {
            Self::Matrix(layout) => layout.bytes(),
            Self::Vector { len } => 4 * *len,
        }
    }

    /// Bytes of the smallest part that can be written: a tile, or the whole vector.
    pub const fn unit_bytes(&self) -> usize {
        match self {
            Self::Matrix(layout) => layout.tile_bytes(),
            Self::Vector { len } => 4 * *len,
        }
    }
}

/// A tensor that a file is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDecl {
    /// Its name: 1 to 255 bytes of UTF-8 without control characters, unique in the file.
    pub name: String,
    /// What it is.
    pub kind: TensorKind,
    /// Whether it starts at a multiple of 64 KiB, as the first tensor of a layer does.
    pub section_start: bool,
    /// Whether its tiles alternate with those of the next tensor, which has the same layout: tile
    /// 0 of this one, tile 0 of the next, tile 1 of this one, ...
    pub interleaved: bool,
}

/// The tensors of a file in order, with their positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataPlan {
    decls: Vec<TensorDecl>,
    /// Offset from the start of the data, and distance between tiles (vectors: 0).
    places: Vec<(u64, u64)>,
    data_len: u64,
}

impl DataPlan {
    /// Lays out the tensors in the order given.
    ///
    /// # Errors
    ///
    /// Too many tensors, a bad or repeated name, an empty vector, tensors that cannot be interleaved, or more bytes
    /// than a file can have.
    pub fn new(decls: Vec<TensorDecl>) -> Result<Self, ContainerError> {
        if decls.len() > MAX_TENSORS {
            return Err(ContainerError::TooManyTensors {
                n: decls.len(),
                max: MAX_TENSORS,
            });
        }
        let mut places = Vec::with_capacity(decls.len());
        let mut cursor = 0;
        let mut rest = &decls[..];
        for (index, decl) in decls.iter().enumerate() {
            check_name(&decl.name)
                .map_err(|problem| ContainerError::TensorName { index, problem })?;
            match decl.kind {
                TensorKind::Vector { len } if !(1..=MAX_DIM).contains(&len) => {
                    return Err(ContainerError::VectorLen {
                        name: decl.name.clone(),
                        len,
                    });
                }
                _ => {}
            }
        }
        while let Some((decl, after)) = rest.split_first() {
            let align = if decl.section_start {
                DATA_ALIGN
            } else {
                TILE_ALIGN as u64
            };
            let n = if decl.interleaved { 2 } else { 1 };
            let place = |cursor| {
                let start = align_up(cursor, align)?;
                let end = start.checked_add(n * decl.kind.bytes() as u64)?;
                (end <= i64::MAX as u64 - 2 * DATA_ALIGN).then_some((start, end))
            };
            let Some((start, end)) = place(cursor) else {
                return Err(ContainerError::DataTooLong {
                    name: decl.name.clone(),
                });
            };
            let tile = match decl.kind {
                TensorKind::Matrix(layout) => layout.tile_bytes() as u64,
                TensorKind::Vector { .. } => 0,
            };
            places.push((start, n * tile));
            rest = after;
            if decl.interleaved {
                check_pair(decl, after.first()).map_err(|problem| ContainerError::Interleaved {
                    name: decl.name.clone(),
                    problem,
                })?;
                places.push((start + tile, n * tile));
                rest = &after[1..];
            }
            cursor = end;
        }
        let plan = Self {
            decls,
            places,
            data_len: cursor,
        };
        match plan
            .by_name()
            .windows(2)
            .find(|pair| plan.name(pair[0]) == plan.name(pair[1]))
        {
            Some(pair) => Err(ContainerError::DuplicateTensor {
                name: plan.name(pair[0]).to_owned(),
            }),
            None => Ok(plan),
        }
    }

    fn name(&self, index: u32) -> &str {
        &self.decls[index as usize].name
    }

    /// Numbers of the tensors in the order of their names.
    pub(super) fn by_name(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.decls.len() as u32).collect();
        order.sort_unstable_by_key(|i| self.name(*i));
        order
    }

    /// The tensors in file order.
    pub fn decls(&self) -> &[TensorDecl] {
        &self.decls
    }

    pub(super) fn into_decls(self) -> Vec<TensorDecl> {
        self.decls
    }

    /// Position of tensor `index`, in bytes from the start of the data.
    ///
    /// # Panics
    ///
    /// If there is no such tensor.
    pub fn offset(&self, index: usize) -> u64 {
        self.places[index].0
    }

    /// Bytes from one tile of matrix `index` to the next; 0 for a vector.
    ///
    /// # Panics
    ///
    /// If there is no such tensor.
    pub fn tile_stride(&self, index: usize) -> u64 {
        self.places[index].1
    }

    /// Bytes of the data, from the first tensor to the end of the last one.
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    /// Bytes of the whole file.
    ///
    /// * `sections`: the lengths of the sections given to the writer, in their order.
    /// * `metadata_len`: bytes of the metadata.
    pub fn file_len(&self, sections: &[u64], metadata_len: u64) -> u64 {
        let directory = super::directory::encoded_len(&self.decls);
        [directory]
            .iter()
            .chain(sections)
            .chain(&[metadata_len])
            .fold(DATA_ALIGN + self.data_len, |end, len| {
                end.next_multiple_of(SECTION_ALIGN) + len
            })
    }
}

fn check_pair(first: &TensorDecl, next: Option<&TensorDecl>) -> Result<(), InterleaveProblem> {
    let Some(next) = next else {
        return Err(InterleaveProblem::NoNext);
    };
    if first.kind != next.kind || matches!(first.kind, TensorKind::Vector { .. }) {
        return Err(InterleaveProblem::Unequal {
            next: next.name.clone(),
        });
    }
    if next.interleaved || next.section_start {
        return Err(InterleaveProblem::NextMarked {
            next: next.name.clone(),
        });
    }
    Ok(())
}

pub(super) fn check_name(name: &str) -> Result<(), NameProblem> {
    if !(1..=MAX_NAME_BYTES).contains(&name.len()) {
        return Err(NameProblem::Length { bytes: name.len() });
    }
    match name.chars().find(|c| c.is_control()) {
        Some(found) => Err(NameProblem::Control { found }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::QuantType;

    fn matrix(name: &str, rows: usize, cols: usize) -> TensorDecl {
        let layout = TensorLayout::new(QuantType::Q4, rows, cols).unwrap();
        let kind = TensorKind::Matrix(layout);
        TensorDecl {
            name: name.to_owned(),
            kind,
            section_start: false,
            interleaved: false,
        }
    }

    fn vector(name: &str, len: usize) -> TensorDecl {
        TensorDecl {
            kind: TensorKind::Vector { len },
            ..matrix(name, 1, 1)
        }
    }

    #[test]
    fn tensors_follow_each_other_and_pairs_alternate() {
        let tile = 384; // 64 of row scales, 272 of one block, padded to 64
        let plan = DataPlan::new(vec![
            matrix("a", 20, 32),
            vector("b", 3),
            TensorDecl {
                interleaved: true,
                section_start: true,
                ..matrix("gate", 33, 32)
            },
            matrix("up", 33, 32),
            vector("c", 1),
        ])
        .unwrap();
        let places: Vec<_> = (0..5)
            .map(|i| (plan.offset(i), plan.tile_stride(i)))
            .collect();
        let start = 65536;
        let end = start + 6 * tile;
        assert_eq!(
            places,
            [
                (0, tile),
                (2 * tile, 0),
                (start, 2 * tile),
                (start + tile, 2 * tile),
                (end, 0)
            ]
        );
        assert_eq!(plan.data_len(), end + 4);
        // Directory: 8 + 5 * 44 + 9 bytes of names, at the next multiple of 64.
        let directory = 65536 + end + 64;
        assert_eq!(
            plan.file_len(&[], 2),
            (directory + 237_u64).next_multiple_of(64) + 2
        );
        let empty = DataPlan::new(Vec::new()).unwrap();
        assert_eq!(
            (empty.data_len(), empty.file_len(&[7], 2)),
            (0, 65536 + 128 + 2)
        );
    }

    #[test]
    fn impossible_plans_name_the_tensor() {
        let huge = TensorLayout::grouped(QuantType::F32, MAX_DIM, MAX_DIM, 1).unwrap();
        let huge = TensorKind::Matrix(huge);
        let many = (0..=MAX_TENSORS)
            .map(|i| vector(&i.to_string(), 1))
            .collect();
        let cases: [(Vec<TensorDecl>, &str); 14] = [
            (many, "65537 tensors, expected at most 65536"),
            (
                vec![
                    TensorDecl {
                        interleaved: true,
                        kind: huge,
                        ..vector("a", 1)
                    },
                    TensorDecl {
                        kind: huge,
                        ..vector("b", 1)
                    },
                ],
                "`a`: ends beyond the longest possible file",
            ),
            (vec![vector("", 1)], "tensor 0: a name of 0 bytes"),
            (
                vec![vector(&"é".repeat(128), 1)],
                "tensor 0: a name of 256 bytes",
            ),
            (
                vec![vector("a", 1), vector("a\u{7}", 1)],
                "tensor 1: the name holds the control",
            ),
            (vec![vector("a", 0)], "`a`: a vector of 0 elements"),
            (
                vec![vector("a", MAX_DIM + 1)],
                "`a`: a vector of 268435457 elements",
            ),
            (
                vec![vector("b", 1), vector("a", 1), vector("b", 2)],
                "two tensors are named `b`",
            ),
            (
                vec![TensorDecl {
                    interleaved: true,
                    ..matrix("a", 1, 1)
                }],
                "and is the last one",
            ),
            (
                vec![
                    TensorDecl {
                        interleaved: true,
                        ..matrix("a", 1, 1)
                    },
                    matrix("b", 1, 2),
                ],
                "`a`: is interleaved with the next one, `b`, which is no matrix of the same",
            ),
            (
                vec![
                    TensorDecl {
                        interleaved: true,
                        ..vector("a", 1)
                    },
                    vector("b", 1),
                ],
                "`b`, which is no matrix",
            ),
            (
                vec![
                    TensorDecl {
                        interleaved: true,
                        ..matrix("a", 1, 1)
                    },
                    TensorDecl {
                        interleaved: true,
                        ..matrix("b", 1, 1)
                    },
                    matrix("c", 1, 1),
                ],
                "`b`, which itself starts",
            ),
            (
                vec![
                    TensorDecl {
                        interleaved: true,
                        ..matrix("a", 1, 1)
                    },
                    TensorDecl {
                        section_start: true,
                        ..matrix("b", 1, 1)
                    },
                ],
                "`b`, which itself starts",
            ),
            (
                ["a", "b", "c"]
                    .map(|n| TensorDecl {
                        kind: huge,
                        ..vector(n, 1)
                    })
                    .to_vec(),
                "`b`: ends beyond the longest possible file",
            ),
        ];
        for (decls, want) in cases {
            let got = DataPlan::new(decls).unwrap_err().to_string();
            assert!(got.contains(want), "{got} should contain {want}");
        }
        let longest = "n".repeat(255);
        assert!(DataPlan::new(vec![vector(&longest, 1)]).is_ok());
    }
}
