//! Tokenizers in the metadata.

use super::{
    Case, check,
    models::{small, small_sentencepiece},
    open, problem,
    writer::{
        F32, Gguf, TEXT, U8, U32, array, boolean, counted, float, floats, int, ints, long, raw,
        text, texts, uint,
    },
};
use chaski_convert::source::Source;
use chaski_models::tokenizer::{Specials, Tokenizer};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";

fn tokenizer(file: &Gguf) -> Tokenizer {
    let files = open(file.bytes()).unwrap().tokenizer().unwrap();
    Tokenizer::from_hf(&files.tokenizer_json, files.tokenizer_config.as_ref()).unwrap()
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let ids = tokenizer.encode(text, Specials::Parse).unwrap();
    ids.into_iter().map(|id| id.0).collect()
}

/// Gives token `id` of a file of [`small_sentencepiece`] another text.
fn spell(file: &mut Gguf, id: usize, token: &[u8]) {
    let value = &file
        .keys
        .iter()
        .find(|(k, _)| k == TOKENS.as_bytes())
        .unwrap()
        .1;
    let mut rest = &value.bytes[12..];
    let mut all = Vec::new();
    while !rest.is_empty() {
        let len = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        all.push(rest[8..8 + len].to_vec());
        rest = &rest[8 + len..];
    }
    all[id] = token.to_vec();
    file.set(TOKENS, texts(&all));
}

#[test]
fn sound_tokenizers_are_read() {
    let byte_level = tokenizer(&small());
    assert_eq!(ids(&byte_level, "ab<|im_end|> b"), [2, 4, 3, 1]);
    assert_eq!(byte_level.bos(), None);
    let pieces = tokenizer(&small_sentencepiece());
    // The line break has no token of its own: byte 10 is token 13.
    assert_eq!(ids(&pieces, "ab\nb</s>"), [263, 13, 261, 2]);
    assert_eq!(pieces.bos().map(|id| id.0), Some(1));

    // Types may be stored in any whole numbers, scores as double.
    let mut file = small();
    file.set(TYPES, array(U8, 6, &[1, 1, 1, 1, 3, 5]));
    assert_eq!(ids(&tokenizer(&file), "ab"), [2]);
}

#[test]
fn arrays_of_tokens_are_texts_one_for_each_row() {
    check(
        &small(),
        &[
            Case {
                name: "tokens: absent",
                change: |f| f.remove(TOKENS),
                says: &["key `tokenizer.ggml.tokens` is missing: expected an array of texts"],
            },
            Case {
                name: "tokens: numbers",
                change: |f| f.set(TOKENS, ints(&[1; 6])),
                says: &["key `tokenizer.ggml.tokens` is an array of 6, expected an array of texts"],
            },
            Case {
                name: "tokens: a text",
                change: |f| f.set(TOKENS, text("a")),
                says: &["key `tokenizer.ggml.tokens` is \"a\", expected an array of texts"],
            },
            Case {
                name: "tokens: fewer than rows of the embeddings",
                change: |f| f.set(TOKENS, texts(&["a", "b", "ab", "\u{120}", "<|im_end|>"])),
                says: &[
                    "key `tokenizer.ggml.tokens` is an array of 5, expected 6, one for each row",
                ],
            },
            Case {
                name: "tokens: more than rows of the embeddings",
                change: |f| {
                    f.set(
                        TOKENS,
                        texts(&["a", "b", "ab", "\u{120}", "<|im_end|>", "x", "y"]),
                    )
                },
                says: &["key `tokenizer.ggml.tokens` is an array of 7, expected 6"],
            },
            Case {
                name: "tokens: none",
                change: |f| f.set(TOKENS, texts::<&str>(&[])),
                says: &["key `tokenizer.ggml.tokens` is an array of 0, expected 6"],
            },
            Case {
                name: "embeddings: more rows than tokens",
                change: |f| {
                    let t = f.tensor("token_embd.weight");
                    t.dims = vec![4, 7];
                    t.data.resize(7 * 4 * 2, 0);
                },
                says: &["key `tokenizer.ggml.tokens` is an array of 6, expected 7"],
            },
            // CVE-2025-49847: 2^32 tokens, or one of 2^32 bytes, counted in 32 bits.
            Case {
                name: "tokens: 2^32 of them",
                change: |f| f.set(TOKENS, array(TEXT, 1 << 32, &counted(b"a"))),
                says: &["the value of key `tokenizer.ggml.tokens` needs 34359738368 bytes"],
            },
            Case {
                name: "tokens: one of 2^32 bytes",
                change: |f| {
                    let bytes = [&((1_u64 << 32) + 1).to_le_bytes()[..], b"a"].concat();
                    f.set(TOKENS, array(TEXT, 1, &bytes));
                },
                says: &["text 0 of key `tokenizer.ggml.tokens` needs 4294967297 bytes"],
            },
            Case {
                name: "tokens: not UTF-8",
                change: |f| f.set(TOKENS, texts(&[b"a", b"b", b"\xff", b"c", b"d", b"e"])),
                says: &["text 2 of key `tokenizer.ggml.tokens` is not UTF-8"],
            },
            Case {
                name: "tokens: one that is there twice",
                change: |f| f.set(TOKENS, texts(&["a", "b", "ab", "a", "<|im_end|>", "x"])),
                says: &["key `tokenizer.ggml.tokens`: tokens 0 and 3 are both \"a\""],
            },
            Case {
                name: "tokens: an empty one",
                change: |f| f.set(TOKENS, texts(&["a", "b", "ab", "", "<|im_end|>", "x"])),
                says: &["token 3, \"\", is empty and not marked as unused"],
            },
            Case {
                name: "types: absent",
                change: |f| f.remove(TYPES),
                says: &["key `tokenizer.ggml.token_type` is missing"],
            },
            Case {
                name: "types: texts",
                change: |f| f.set(TYPES, texts(&["1"; 6])),
                says: &["key `tokenizer.ggml.token_type` is an array of 6, expected"],
            },
            Case {
                name: "types: floats",
                change: |f| f.set(TYPES, floats(&[1.0; 6])),
                says: &["key `tokenizer.ggml.token_type[0]` is 1, expected"],
            },
            Case {
                name: "types: fewer than tokens",
                change: |f| f.set(TYPES, ints(&[1, 1, 1, 1, 3])),
                says: &["key `tokenizer.ggml.token_type` is an array of 5 for 6 tokens"],
            },
            Case {
                name: "types: 0",
                change: |f| f.set(TYPES, ints(&[1, 0, 1, 1, 3, 5])),
                says: &[
                    "key `tokenizer.ggml.token_type[1]` is 0, expected a token type from 1 to 6",
                ],
            },
            Case {
                name: "types: negative",
                change: |f| f.set(TYPES, ints(&[1, 1, 1, 1, 3, -1])),
                says: &["key `tokenizer.ggml.token_type[5]` is -1"],
            },
            Case {
                name: "types: largest",
                change: |f| f.set(TYPES, ints(&[1, 1, 1, i32::MAX, 3, 1])),
                says: &["key `tokenizer.ggml.token_type[3]` is 2147483647"],
            },
            Case {
                name: "end: beyond the vocabulary",
                change: |f| f.set("tokenizer.ggml.eos_token_id", uint(6)),
                says: &[
                    "key `tokenizer.ggml.eos_token_id` is 6, expected the id of one of 6 tokens",
                ],
            },
            Case {
                name: "end: -1",
                change: |f| f.set("tokenizer.ggml.eos_token_id", int(-1)),
                says: &["key `tokenizer.ggml.eos_token_id` is -1"],
            },
            Case {
                name: "end of turn: the id modulo 2^32 would be one",
                change: |f| f.set("tokenizer.ggml.eot_token_id", long(1 << 32)),
                says: &["key `tokenizer.ggml.eot_token_id` is 4294967296"],
            },
            Case {
                name: "beginning: largest",
                change: |f| f.set("tokenizer.ggml.bos_token_id", uint(u32::MAX)),
                says: &["key `tokenizer.ggml.bos_token_id` is 4294967295"],
            },
            Case {
                name: "beginning: to be added and absent",
                change: |f| f.set("tokenizer.ggml.add_bos_token", boolean(true)),
                says: &["key `tokenizer.ggml.bos_token_id` is missing: expected the id of a token"],
            },
            Case {
                name: "beginning: to be added, said in a number",
                change: |f| f.set("tokenizer.ggml.add_bos_token", uint(1)),
                says: &["key `tokenizer.ggml.add_bos_token` is 1, expected true or false"],
            },
            Case {
                name: "kind: unknown",
                change: |f| f.set("tokenizer.ggml.model", text("plamo2")),
                says: &["key `tokenizer.ggml.model` is plamo2, expected gpt2 or llama"],
            },
            Case {
                name: "kind: absent",
                change: |f| f.remove("tokenizer.ggml.model"),
                says: &["tokenizer"],
            },
            Case {
                name: "pre-tokenizer: unknown",
                change: |f| f.set("tokenizer.ggml.pre", text("qwen35")),
                says: &["key `tokenizer.ggml.pre` is qwen35, expected one of llama-bpe,"],
            },
            Case {
                name: "pre-tokenizer: absent",
                change: |f| f.remove("tokenizer.ggml.pre"),
                says: &["key `tokenizer.ggml.pre` is missing"],
            },
        ],
    );
}

#[test]
fn merges_join_tokens() {
    check(
        &small(),
        &[
            Case {
                name: "absent",
                change: |f| f.remove(MERGES),
                says: &["key `tokenizer.ggml.merges` is missing"],
            },
            Case {
                name: "numbers",
                change: |f| f.set(MERGES, array(U32, 1, &[0; 4])),
                says: &["key `tokenizer.ggml.merges` is an array of 1, expected an array of texts"],
            },
            Case {
                name: "2^32 of them",
                change: |f| f.set(MERGES, array(TEXT, 1 << 32, &counted(b"a b"))),
                says: &["the value of key `tokenizer.ggml.merges` needs 34359738368 bytes"],
            },
            Case {
                name: "one token",
                change: |f| f.set(MERGES, texts(&["a b", "ab"])),
                says: &["merge 1, \"ab\", is not two tokens with a space between them"],
            },
            Case {
                name: "three tokens",
                change: |f| f.set(MERGES, texts(&["a b b"])),
                says: &["merge 0, \"a b b\", is not two tokens"],
            },
            Case {
                name: "an empty token",
                change: |f| f.set(MERGES, texts(&["a "])),
                says: &["merge 0, \"a \", is not two tokens"],
            },
            Case {
                name: "nothing",
                change: |f| f.set(MERGES, texts(&[""])),
                says: &["merge 0, \"\", is not two tokens"],
            },
            Case {
                name: "an unknown part",
                change: |f| f.set(MERGES, texts(&["a x"])),
                says: &[
                    "merge 0, \"a x\", joins tokens, or makes one, that the vocabulary does not have",
                ],
            },
            Case {
                name: "an unknown whole",
                change: |f| f.set(MERGES, texts(&["b a"])),
                says: &["merge 0, \"b a\", joins tokens, or makes one"],
            },
        ],
    );
}

#[test]
fn tokens_of_bytes_are_the_256_bytes() {
    check(
        &small_sentencepiece(),
        &[
            // llama.cpp's PR 25969: parsed as a signed number, the index of a write.
            Case {
                name: "<0x-1>",
                change: |f| spell(f, 3, b"<0x-1>"),
                says: &["token 3, \"<0x-1>\", is marked as a byte and is not spelled as one"],
            },
            Case {
                name: "<0xZZ>",
                change: |f| spell(f, 3, b"<0xZZ>"),
                says: &["token 3, \"<0xZZ>\", is marked as a byte"],
            },
            Case {
                name: "<0x100>",
                change: |f| spell(f, 258, b"<0x100>"),
                says: &["token 258, \"<0x100>\", is marked as a byte"],
            },
            Case {
                name: "<0x>",
                change: |f| spell(f, 3, b"<0x>"),
                says: &["token 3, \"<0x>\", is marked as a byte"],
            },
            Case {
                name: "lower case",
                change: |f| spell(f, 14, b"<0x0b>"),
                says: &["token 14, \"<0x0b>\", is marked as a byte"],
            },
            Case {
                name: "a letter",
                change: |f| spell(f, 3, b"Q"),
                says: &["token 3, \"Q\", is marked as a byte"],
            },
            Case {
                name: "a byte twice",
                change: |f| spell(f, 3, b"<0x01>"),
                says: &["tokens 3 and 4 are both \"<0x01>\""],
            },
            Case {
                name: "a byte that is missing",
                change: |f| {
                    let mut kinds = vec![2, 3, 3, 1];
                    kinds.extend([6; 255]);
                    kinds.extend([1; 5]);
                    f.set(TYPES, ints(&kinds));
                },
                says: &[
                    "key `tokenizer.ggml.tokens` is an array with 255 of them, expected tokens for all 256 bytes",
                ],
            },
        ],
    );
}

#[test]
fn scores_are_finite_and_one_for_each_token() {
    check(
        &small_sentencepiece(),
        &[
            Case {
                name: "absent",
                change: |f| f.remove(SCORES),
                says: &["key `tokenizer.ggml.scores` is missing"],
            },
            Case {
                name: "texts",
                change: |f| f.set(SCORES, texts(&["1"; 264])),
                says: &["key `tokenizer.ggml.scores` is an array of 264, expected a finite number"],
            },
            Case {
                name: "one too few",
                change: |f| f.set(SCORES, floats(&[0.0; 263])),
                says: &["key `tokenizer.ggml.scores` is an array of 263 for 264 tokens"],
            },
            Case {
                name: "2^62 of them",
                change: |f| f.set(SCORES, array(F32, 1 << 62, &[0; 4])),
                says: &[
                    "the value of key `tokenizer.ggml.scores` needs 18446744073709551615 bytes",
                ],
            },
            Case {
                name: "not a number",
                change: |f| {
                    let mut all = [0.0; 264];
                    all[263] = f32::NAN;
                    f.set(SCORES, floats(&all));
                },
                says: &["key `tokenizer.ggml.scores[263]` is NaN"],
            },
            Case {
                name: "infinite",
                change: |f| f.set(SCORES, floats(&[f32::NEG_INFINITY; 264])),
                says: &["key `tokenizer.ggml.scores[0]` is -inf"],
            },
            Case {
                name: "one number",
                change: |f| f.set(SCORES, float(0.0)),
                says: &["key `tokenizer.ggml.scores` is 0, expected"],
            },
            Case {
                name: "a token too long to be taken apart",
                change: |f| spell(f, 263, &[b'a'; 257]),
                says: &["token 263", "is longer than any token of such a vocabulary"],
            },
            Case {
                name: "rules for normalising",
                change: |f| f.set("tokenizer.ggml.precompiled_charsmap", array(U8, 1, &[1])),
                says: &[
                    "key `tokenizer.ggml.precompiled_charsmap` is an array of 1, expected an empty array",
                ],
            },
            Case {
                name: "spaces to be removed",
                change: |f| f.set("tokenizer.ggml.remove_extra_whitespaces", boolean(true)),
                says: &["key `tokenizer.ggml.remove_extra_whitespaces` is true"],
            },
            Case {
                name: "unknown token: beyond the vocabulary",
                change: |f| f.set("tokenizer.ggml.unknown_token_id", uint(264)),
                says: &["key `tokenizer.ggml.unknown_token_id` is 264"],
            },
            Case {
                name: "unknown token: a text",
                change: |f| f.set("tokenizer.ggml.unknown_token_id", text("<unk>")),
                says: &["key `tokenizer.ggml.unknown_token_id` is \"<unk>\""],
            },
        ],
    );
    // Without any byte there is no fallback, and that is no error.
    let mut file = small_sentencepiece();
    let mut kinds = vec![2, 3, 3];
    kinds.extend([1; 261]);
    file.set(TYPES, ints(&kinds));
    assert_eq!(problem(file.bytes()), None);
    file.set(
        "tokenizer.ggml.padding_token_id",
        raw(U32, &u32::MAX.to_le_bytes()),
    );
    assert!(problem(file.bytes()).unwrap().contains("padding_token_id"));
}
