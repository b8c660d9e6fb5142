//! Where tensors lie, and where the file ends.

use super::{
    Case, chain, check,
    models::{small, small_sentencepiece},
    open, problem,
    writer::{Gguf, Tensor},
};
use chaski_convert::source;

#[test]
fn tensors_lie_in_the_file_and_apart() {
    check(
        &small(),
        &[
            Case {
                name: "name: empty",
                change: |f| f.tensors[2].name.clear(),
                says: &["the name of tensor 2 is empty"],
            },
            Case {
                name: "name: not UTF-8",
                change: |f| f.tensors[2].name = b"blk\xff".to_vec(),
                says: &["the name of tensor 2 is not UTF-8"],
            },
            Case {
                name: "name: too long",
                change: |f| f.tensors[2].name = vec![b'a'; 1025],
                says: &["the name of tensor 2 has 1025 bytes, at most 1024"],
            },
            Case {
                name: "name: there twice",
                change: |f| f.tensors[2].name = f.tensors[1].name.clone(),
                says: &["tensor `blk.0.attn_norm.weight` is there twice"],
            },
            Case {
                name: "no dimensions",
                change: |f| f.tensors[1].n_dims = Some(0),
                says: &["tensor `blk.0.attn_norm.weight` has 0 dimensions"],
            },
            Case {
                name: "five dimensions",
                change: |f| f.tensors[1].n_dims = Some(5),
                says: &["tensor `blk.0.attn_norm.weight` has 5 dimensions"],
            },
            Case {
                name: "largest number of dimensions",
                change: |f| f.tensors[1].n_dims = Some(u32::MAX),
                says: &["tensor `blk.0.attn_norm.weight` has 4294967295 dimensions"],
            },
            Case {
                name: "three dimensions that are not 1",
                change: |f| f.tensor("blk.0.attn_q.weight").dims = vec![2, 2, 4],
                says: &["tensor `blk.0.attn_q.weight` has dimensions [2, 2, 4]"],
            },
            Case {
                name: "columns 0",
                change: |f| f.tensor("blk.0.attn_q.weight").dims = vec![0, 4],
                says: &[
                    "tensor `blk.0.attn_q.weight` has dimensions [0, 4], expected dimensions that are not 0",
                ],
            },
            Case {
                name: "rows 0",
                change: |f| f.tensor("blk.0.attn_q.weight").dims = vec![4, 0],
                says: &["tensor `blk.0.attn_q.weight` has dimensions [4, 0]"],
            },
            Case {
                name: "a product that overflows to 0",
                change: |f| f.tensor("blk.0.attn_q.weight").dims = vec![1 << 32, 1 << 32],
                says: &["tensor `blk.0.attn_q.weight` has dimensions [4294967296, 4294967296]"],
            },
            Case {
                name: "a product that fits and bytes that overflow",
                change: |f| f.tensor("blk.0.attn_q.weight").dims = vec![1 << 31, 1 << 31],
                says: &["[2147483648, 2147483648], expected no more bytes than a file can have"],
            },
            Case {
                name: "largest columns",
                change: |f| f.tensor("blk.0.attn_norm.weight").dims = vec![u64::MAX],
                says: &["[18446744073709551615], expected no more bytes"],
            },
            Case {
                name: "negative dimension of a 64-bit reader",
                change: |f| f.tensor("blk.0.attn_norm.weight").dims = vec![1 << 63],
                says: &["[9223372036854775808], expected no more bytes"],
            },
            // CVE-2026-7482: the declared shape is read whatever the file has.
            Case {
                name: "a shape larger than the file",
                change: |f| f.tensor("token_embd.weight").dims = vec![4, 1 << 20],
                says: &[
                    "tensor `token_embd.weight` has 8388608 bytes from byte 0 of the data on",
                    "truncated or damaged",
                ],
            },
            Case {
                name: "the last tensor, one row too many",
                change: |f| f.tensor("output_norm.weight").dims = vec![5],
                says: &["tensor `output_norm.weight` has 20 bytes"],
            },
            Case {
                name: "data that overlap the next tensor's",
                change: |f| f.tensor("token_embd.weight").dims = vec![4, 9],
                says: &["tensors `token_embd.weight` and `blk.0.attn_norm.weight` overlap"],
            },
            Case {
                name: "two tensors in one place",
                change: |f| f.tensors[2].offset = Some(0),
                says: &["tensors `token_embd.weight` and `blk.0.attn_q.weight` overlap"],
            },
            Case {
                name: "offset: not aligned",
                change: |f| f.tensors[2].offset = Some(33),
                says: &[
                    "tensor `blk.0.attn_q.weight` starts at byte 33 of the data",
                    "no multiple of 32",
                ],
            },
            Case {
                name: "offset: at the end of the file",
                change: |f| f.tensors[2].offset = Some(4096),
                says: &["tensor `blk.0.attn_q.weight` has 64 bytes from byte 4096 of the data on"],
            },
            // CVE-2026-27940: the sum of offset and size overflows.
            Case {
                name: "offset: largest",
                change: |f| f.tensors[2].offset = Some(u64::MAX - 31),
                says: &["tensor `blk.0.attn_q.weight` has 64 bytes from byte 18446744073709551584"],
            },
            Case {
                name: "offset: negative for others",
                change: |f| f.tensors[2].offset = Some(1 << 63),
                says: &["tensor `blk.0.attn_q.weight` has 64 bytes from byte 9223372036854775808"],
            },
            Case {
                name: "type: unknown",
                change: |f| f.tensors[2].type_id = 200,
                says: &["tensor `blk.0.attn_q.weight`: type id 200 is unknown"],
            },
            Case {
                name: "type: largest",
                change: |f| f.tensors[2].type_id = u32::MAX,
                says: &["tensor `blk.0.attn_q.weight`: type id 4294967295 is unknown"],
            },
            Case {
                name: "type: withdrawn",
                change: |f| f.tensors[2].type_id = 4,
                says: &["tensor `blk.0.attn_q.weight`: type id 4 was withdrawn"],
            },
            Case {
                name: "type: not decoded",
                change: |f| f.tensors[2].type_id = 16,
                says: &["tensor `blk.0.attn_q.weight`: type IQ2_XXS (id 16) cannot be converted"],
            },
            Case {
                name: "rows that are no whole blocks",
                change: |f| f.tensors[2].type_id = 2,
                says: &[
                    "tensor `blk.0.attn_q.weight` has rows of 4 weights, which are no whole Q4_0 blocks of 32",
                ],
            },
            Case {
                name: "a tensor that no model has",
                change: |f| {
                    f.tensors
                        .push(Tensor::new("blk.7.attn_q.weight", &[4, 4], 0, vec![0; 64]))
                },
                says: &["blk.7.attn_q.weight"],
            },
        ],
    );
    // Dimensions of 1 at the end are none.
    let mut file = small();
    file.tensor("blk.0.attn_q.weight").dims = vec![4, 4, 1, 1];
    assert_eq!(problem(file.bytes()), None);
}

#[test]
fn a_file_that_ends_anywhere_too_early_is_an_error() {
    for file in [small(), small_sentencepiece()] {
        let bytes = file.bytes();
        let header = file.header().len();
        for len in 0..bytes.len() {
            let got = open(bytes[..len].to_vec()).unwrap_err();
            assert!(got.contains("truncated"), "{len}: {got}");
            // In the header the error says what is missing and where.
            let says = if len < header {
                "needs"
            } else {
                "of the data on"
            };
            assert!(got.contains(says), "{len}: {got}");
        }
    }
}

#[test]
fn the_same_errors_come_from_files_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let bytes = small().bytes();
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(source::open(&path).unwrap().kind(), "gguf");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let got = chain(&source::open(&path).unwrap_err());
    assert!(
        got.contains("model.gguf") && got.contains("truncated"),
        "{got}"
    );
    // What is not even a GGUF file.
    let mut other: Gguf = small();
    other.magic = *b"GGML";
    std::fs::write(&path, other.bytes()).unwrap();
    let got = chain(&source::open(&path).unwrap_err());
    assert!(got.contains("model.gguf"), "{got}");
}
