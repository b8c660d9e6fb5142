//! Counts, lengths, types: what a header can say that is not so.

use super::{
    Case, check,
    models::{small, small_sentencepiece},
    open, problem,
    writer::{ARRAY, BOOL, TEXT, U8, U32, U64, array, counted, int, long, raw, text, texts, uint},
};
use chaski_convert::source::Source;

/// Where the first key's length stands.
const FIRST_KEY: usize = 24;

#[test]
fn versions_2_and_3_are_read_alike() {
    for mut file in [small(), small_sentencepiece()] {
        let mut tensors = Vec::new();
        for version in [2, 3] {
            file.version = version;
            assert_eq!(problem(file.bytes()), None, "version {version}");
            tensors.push(open(file.bytes()).unwrap().tensors().to_vec());
        }
        assert_eq!(tensors[0], tensors[1]);
        assert_eq!(tensors[0].len(), 11);
    }
}

#[test]
fn the_beginning_has_to_be_right() {
    check(
        &small(),
        &[
            Case {
                name: "magic",
                change: |f| f.magic = *b"GGUE",
                says: &["it starts with \"GGUE\", not with \"GGUF\""],
            },
            Case {
                name: "magic of ggml's older format",
                change: |f| f.magic = *b"lmgg",
                says: &["it starts with \"lmgg\""],
            },
            Case {
                name: "version 0",
                change: |f| f.version = 0,
                says: &["version 0 is not read, versions 2 and 3 are"],
            },
            Case {
                name: "version 1",
                change: |f| f.version = 1,
                says: &["version 1 is not read"],
            },
            Case {
                name: "version 4",
                change: |f| f.version = 4,
                says: &["version 4 is not read"],
            },
            Case {
                name: "big-endian",
                change: |f| f.version = 3_u32.swap_bytes(),
                says: &["big-endian"],
            },
            Case {
                name: "largest version",
                change: |f| f.version = u32::MAX,
                says: &["version 4294967295 is not read"],
            },
        ],
    );
}

#[test]
fn counts_are_bounded_by_the_file() {
    check(
        &small(),
        &[
            // CVE-2024-23605 and its kin: counts that are multiplied.
            Case {
                name: "tensors: largest count",
                change: |f| f.n_tensors = Some(u64::MAX),
                says: &["announces 18446744073709551615 tensors, at most 65536"],
            },
            Case {
                name: "tensors: largest positive count",
                change: |f| f.n_tensors = Some(i64::MAX as u64),
                says: &["tensors, at most"],
            },
            Case {
                name: "tensors: one beyond the limit",
                change: |f| f.n_tensors = Some(65537),
                says: &["announces 65537 tensors"],
            },
            Case {
                name: "tensors: the limit, in a file that has not so many",
                change: |f| f.n_tensors = Some(65536),
                says: &["tensor"],
            },
            Case {
                name: "keys: largest count",
                change: |f| f.n_keys = Some(u64::MAX),
                says: &["announces 18446744073709551615 keys, at most 65536"],
            },
            Case {
                name: "keys: product with the size of a pair overflows",
                change: |f| f.n_keys = Some(u64::MAX / 8 + 2),
                says: &["keys, at most"],
            },
            Case {
                name: "keys: one more than there are",
                change: |f| f.n_keys = Some(f.keys.len() as u64 + 1),
                says: &["the file is truncated: the name of tensor 0"],
            },
            Case {
                name: "keys: one less than there are",
                change: |f| f.n_keys = Some(f.keys.len() as u64 - 1),
                says: &["tensor `tokenizer.chat_template`"],
            },
            Case {
                name: "no tensors",
                change: |f| f.tensors.clear(),
                says: &["tensor `token_embd.weight` is missing"],
            },
            Case {
                name: "no keys",
                change: |f| f.keys.clear(),
                says: &["key `general.architecture` is missing: expected llama, qwen2 or qwen3"],
            },
        ],
    );
}

#[test]
fn lengths_of_texts_are_bounded_by_the_file() {
    // The length of the first key.
    for (len, says) in [
        (
            u64::MAX,
            "the file is truncated: key 0 needs 18446744073709551615 bytes at byte 32",
        ),
        (u64::MAX - 7, "key 0 needs"),
        (1 << 63, "key 0 needs"),
        (1 << 40, "key 0 needs 1099511627776 bytes"),
    ] {
        let mut bytes = small().bytes();
        bytes[FIRST_KEY..FIRST_KEY + 8].copy_from_slice(&len.to_le_bytes());
        let got = problem(bytes).unwrap();
        assert!(got.contains(says), "{got}");
    }
    check(
        &small(),
        &[
            Case {
                name: "text: largest length",
                change: |f| f.set("general.name", raw(TEXT, &u64::MAX.to_le_bytes())),
                says: &["the value of key `general.name` needs 18446744073709551615 bytes"],
            },
            Case {
                name: "text: one byte more than the file",
                change: |f| {
                    f.keys.clear();
                    f.n_keys = Some(1);
                    f.tensors.clear();
                    f.set("k", raw(TEXT, &[4, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c']));
                },
                says: &["the value of key `k` needs 4 bytes", "of 48"],
            },
            Case {
                name: "key: beyond the format's limit",
                change: |f| f.keys.push((vec![b'k'; 65536], uint(1))),
                says: &["has 65536 bytes, at most 65535 are read"],
            },
            Case {
                name: "key: empty",
                change: |f| f.keys.push((Vec::new(), uint(1))),
                says: &["key 18 is empty"],
            },
            Case {
                name: "key: not UTF-8",
                change: |f| f.keys[1].0 = b"general.\xff".to_vec(),
                says: &["key 1 is not UTF-8"],
            },
            Case {
                name: "text: not UTF-8",
                change: |f| f.set("general.name", text(b"\xc3(")),
                says: &["the value of key `general.name` is not UTF-8"],
            },
            Case {
                name: "key: control characters stay out of the message",
                change: |f| f.keys.push((b"\x1b[2J".to_vec(), raw(99, &[]))),
                says: &[r"key `\u{1b}[2J` has a value of the unknown type 99"],
            },
        ],
    );
}

#[test]
fn values_have_the_types_of_the_format() {
    check(
        &small(),
        &[
            Case {
                name: "unknown type",
                change: |f| f.set("general.name", raw(13, &[0; 8])),
                says: &["key `general.name` has a value of the unknown type 13"],
            },
            Case {
                name: "largest type",
                change: |f| f.set("general.name", raw(u32::MAX, &[0; 8])),
                says: &["key `general.name` has a value of the unknown type 4294967295"],
            },
            Case {
                name: "Boolean 2",
                change: |f| f.set("general.flag", raw(BOOL, &[2])),
                says: &["key `general.flag` is 2, expected true (1) or false (0)"],
            },
            Case {
                name: "Boolean 255 in an array",
                change: |f| f.set("general.flags", array(BOOL, 3, &[0, 1, 255])),
                says: &["key `general.flags` is 255, expected true (1) or false (0)"],
            },
            Case {
                name: "array of an unknown type",
                change: |f| f.set("general.list", array(77, 1, &[0; 8])),
                says: &["key `general.list` has a value of the unknown type 77"],
            },
            Case {
                name: "array of arrays",
                change: |f| f.set("general.list", array(ARRAY, 1, &array(U8, 1, &[1]).bytes)),
                says: &["key `general.list` is an array of arrays"],
            },
            Case {
                name: "arrays nested a thousand deep",
                change: |f| {
                    let head = [&ARRAY.to_le_bytes()[..], &1_u64.to_le_bytes()].concat();
                    f.set("general.list", raw(ARRAY, &head.repeat(1000)));
                },
                says: &["key `general.list` is an array of arrays"],
            },
            Case {
                name: "array: largest count of bytes",
                change: |f| f.set("general.list", array(U8, u64::MAX, &[])),
                says: &["the value of key `general.list` needs 18446744073709551615 bytes"],
            },
            Case {
                name: "array: count times size overflows to 8",
                change: |f| f.set("general.list", array(U64, (1 << 61) + 1, &[0; 8])),
                says: &["the value of key `general.list` needs 18446744073709551615 bytes"],
            },
            Case {
                name: "array: count times size is 2^63",
                change: |f| f.set("general.list", array(U32, 1 << 61, &[0; 8])),
                says: &["the value of key `general.list` needs 9223372036854775808 bytes"],
            },
            Case {
                name: "array of texts: count times 8 overflows",
                change: |f| f.set("general.list", array(TEXT, 1 << 61, &counted(b"a"))),
                says: &["the value of key `general.list` needs 18446744073709551615 bytes"],
            },
            Case {
                name: "array of texts: largest length of one",
                change: |f| {
                    let all = [counted(b"a"), u64::MAX.to_le_bytes().to_vec()].concat();
                    f.set("general.list", array(TEXT, 2, &all));
                },
                says: &["text 1 of key `general.list` needs 18446744073709551615 bytes"],
            },
            Case {
                name: "array of texts: not UTF-8 but for the two together",
                change: |f| f.set("general.list", texts(&[b"\xc3", b"\xa9"])),
                says: &["text 0 of key `general.list` is not UTF-8"],
            },
            Case {
                name: "a key that is there twice",
                change: |f| f.keys.push((b"general.name".to_vec(), text("again"))),
                says: &["key `general.name` is there twice"],
            },
        ],
    );
}

#[test]
fn alignments_are_powers_of_two_within_reason() {
    const KEY: &str = "general.alignment";
    check(
        &small(),
        &[
            // Division by 0 in others (CVE-2025-0317).
            Case {
                name: "0",
                change: |f| f.set(KEY, uint(0)),
                says: &["key `general.alignment` is 0, expected a power of two up to 1048576"],
            },
            Case {
                name: "24",
                change: |f| f.set(KEY, uint(24)),
                says: &["key `general.alignment` is 24, expected a power of two"],
            },
            Case {
                name: "2 MiB",
                change: |f| f.set(KEY, uint(2 << 20)),
                says: &["key `general.alignment` is 2097152"],
            },
            Case {
                name: "2^63",
                change: |f| f.set(KEY, long(1 << 63)),
                says: &["key `general.alignment` is 9223372036854775808"],
            },
            Case {
                name: "largest",
                change: |f| f.set(KEY, uint(u32::MAX)),
                says: &["key `general.alignment` is 4294967295"],
            },
            Case {
                name: "negative",
                change: |f| f.set(KEY, int(-32)),
                says: &[
                    "key `general.alignment` is -32, expected a whole number that is not negative",
                ],
            },
            Case {
                name: "a text",
                change: |f| f.set(KEY, text("32")),
                says: &["key `general.alignment` is \"32\", expected a whole number"],
            },
            Case {
                name: "the file's own is another",
                change: |f| f.set(KEY, uint(64)),
                says: &["starts at byte", "no multiple of 64"],
            },
            Case {
                name: "so large that the data would begin beyond the file",
                change: |f| f.set(KEY, uint(1 << 20)),
                says: &["no multiple of 1048576"],
            },
        ],
    );
    for alignment in [1, 2, 4, 8, 16, 64, 4096, 1 << 20] {
        let mut file = small();
        file.alignment = alignment;
        file.set(KEY, uint(alignment as u32));
        assert_eq!(problem(file.bytes()), None, "{alignment}");
    }
    let mut file = small();
    file.remove(KEY);
    assert_eq!(problem(file.bytes()), None, "32 where nothing is said");
}
