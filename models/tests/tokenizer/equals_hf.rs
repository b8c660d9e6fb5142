//! Every text has the tokens, and every token the text, that Hugging Face's `tokenizers` gives it.

use chaski_models::{
    TokenId,
    tokenizer::{DecodeOptions, Specials, StreamDecoder, TextStart, Tokenizer},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::common::{CORPUS, FIXTURES, fixture, fixture_json, numbers};

/// One tokenizer in both libraries.
struct Pair {
    name: String,
    ours: Tokenizer,
    theirs: tokenizers::Tokenizer,
    /// The same one, which takes special tokens for text.
    theirs_as_text: tokenizers::Tokenizer,
    /// Whether to compare the texts too. Theirs takes an added token for what the vocabulary would
    /// mean by its text, or shows its normalised form; ours shows the token as it was written.
    decodes: bool,
}

impl Pair {
    fn new(name: &str, json: &str) -> Self {
        let built = Tokenizer::from_hf(json.as_bytes(), None).unwrap();
        // What comes out of a container is the fast form.
        let ours = Tokenizer::from_fast(&built.to_fast()).unwrap();
        let theirs = tokenizers::Tokenizer::from_bytes(json).unwrap();
        let mut theirs_as_text = theirs.clone();
        theirs_as_text.set_encode_special_tokens(true);
        Self {
            name: name.to_owned(),
            ours,
            theirs,
            theirs_as_text,
            decodes: true,
        }
    }

    fn check(&self, text: &str) {
        let name = &self.name;
        for (specials, theirs) in [
            (Specials::Parse, &self.theirs),
            (Specials::AsText, &self.theirs_as_text),
        ] {
            let want = theirs.encode_fast(text, false).unwrap().get_ids().to_vec();
            let got = numbers(&self.ours.encode(text, specials).unwrap());
            assert_eq!(got, want, "{name}: {specials:?}: {text:?}");
            let shown = if self.decodes {
                &[false, true][..]
            } else {
                &[]
            };
            for &show_specials in shown {
                let want = theirs.decode(&want, !show_specials).unwrap();
                let options = DecodeOptions {
                    show_specials,
                    start: TextStart::Beginning,
                };
                let mut decoder = StreamDecoder::new(options);
                let mut text_again = String::new();
                for &id in &got {
                    decoder.push_to(&self.ours, TokenId(id), &mut text_again);
                }
                text_again += &decoder.finish();
                assert_eq!(text_again, want, "{name}: decoded: {text:?}");
            }
        }
    }
}

fn fixtures() -> Vec<Pair> {
    FIXTURES
        .iter()
        .map(|(name, json)| Pair::new(name, json))
        .collect()
}

/// The fixtures' styles with other settings, one at a time.
fn variants() -> Vec<Pair> {
    let mut variants = Vec::new();
    let mut add = |base: &str, change: &dyn Fn(&mut Value)| {
        let mut json = fixture_json(base);
        change(&mut json);
        let name = format!("{base} {}", variants.len());
        variants.push(Pair::new(&name, &json.to_string()));
    };
    add("qwen", &|json| json["model"]["ignore_merges"] = true.into());
    add("llama3", &|json| {
        json["model"]["ignore_merges"] = false.into()
    });
    for form in ["NFD", "NFKC", "NFKD"] {
        add("qwen", &|json| json["normalizer"] = json!({"type": form}));
    }
    add("qwen", &|json| {
        let replace = json!({"type": "Replace", "pattern": {"Regex": "\\d+"}, "content": "0$0"});
        let sequence = json!([{"type": "NFC"}, {"type": "Sequence", "normalizers": [replace]}]);
        json["normalizer"] = json!({"type": "Sequence", "normalizers": sequence});
    });
    for behavior in [
        "Removed",
        "MergedWithPrevious",
        "MergedWithNext",
        "Contiguous",
    ] {
        for invert in [false, true] {
            for pattern in [json!({"Regex": "\\s+|\\p{P}"}), json!({"String": "a"})] {
                add("llama3", &|json| {
                    let split = &mut json["pre_tokenizer"]["pretokenizers"][0];
                    split["pattern"] = pattern.clone();
                    split["behavior"] = behavior.into();
                    split["invert"] = invert.into();
                });
            }
        }
    }
    for individual in [false, true] {
        add("smollm", &|json| {
            let steps = &mut json["pre_tokenizer"]["pretokenizers"];
            steps[0]["individual_digits"] = individual.into();
            steps[1]["add_prefix_space"] = true.into();
        });
    }
    add("smollm", &|json| {
        json["pre_tokenizer"] = json["pre_tokenizer"]["pretokenizers"][1].clone();
    });
    add("smollm", &|json| {
        json["model"]["unk_token"] = "<|endoftext|>".into();
        json["model"]["fuse_unk"] = true.into();
    });
    for (prepend, split) in [("always", false), ("never", true), ("first", true)] {
        add("sp_metaspace", &|json| {
            json["pre_tokenizer"]["prepend_scheme"] = prepend.into();
            json["pre_tokenizer"]["split"] = split.into();
        });
    }
    for base in ["sp_legacy", "sp_metaspace", "sp_unknown"] {
        add(base, &|json| json["model"]["unk_token"] = Value::Null);
        add(base, &|json| {
            json["model"]["fuse_unk"] = (base == "sp_unknown").into()
        });
        add(base, &|json| json["model"]["ignore_merges"] = true.into());
        // Some bytes have no token: characters with one of those are unknown.
        add(base, &|json| {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            vocab.remove("<0xE6>");
            vocab.remove("<0x9F>");
        });
        // A merge over a space: words are not independent.
        add(base, &|json| {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            for piece in ["e▁", "▁e▁", "e▁t", "▁e▁t"] {
                vocab.insert(piece.to_owned(), json!(5000 + piece.len()));
            }
            let merges = json["model"]["merges"].as_array_mut().unwrap();
            let legacy = merges[0].is_string();
            for (i, (left, right)) in [("e", "▁"), ("▁", "e▁"), ("e", "▁t"), ("▁", "e▁t")]
                .into_iter()
                .enumerate()
            {
                let both = format!("{left} {right}");
                merges.insert(
                    i * 7,
                    if legacy {
                        json!(both)
                    } else {
                        json!([left, right])
                    },
                );
            }
        });
    }
    for base in ["qwen", "sp_legacy", "sp_metaspace"] {
        add(base, &|json| {
            let first = json["model"]["vocab"].as_object().unwrap().len();
            let taken = json["added_tokens"].as_array().unwrap().len();
            let taken = if base == "qwen" { taken } else { 0 };
            let tokens = [
                ("<sep>", "l", true),
                ("<end>", "r", true),
                ("both", "lr", false),
                ("word", "w", false),
                ("The mes", "n", false),
                ("élé", "n", false),
                ("The message", "n", false),
                ("<se", "", true),
                ("  ", "wn", false),
            ];
            for (i, (content, flags, special)) in tokens.into_iter().enumerate() {
                json["added_tokens"].as_array_mut().unwrap().push(json!({
                    "id": first + taken + i, "content": content, "special": special,
                    "single_word": flags.contains('w'), "lstrip": flags.contains('l'),
                    "rstrip": flags.contains('r'), "normalized": flags.contains('n'),
                }));
            }
        });
    }
    for pair in &mut variants {
        let added = pair.ours.specials().any(|(_, text)| text == "<sep>");
        pair.decodes = !added;
    }
    variants
}

/// What is hard about texts.
const PIECES: [&str; 59] = [
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    " \n ",
    "\u{a0}",
    "\u{2003}",
    "\u{3000}",
    "\u{85}",
    "\u{2028}",
    "▁",
    "▁▁",
    " ▁",
    "don't",
    "I'LL",
    "'S",
    "’s",
    "ſ",
    "K's",
    "'re've",
    "1",
    "1234567",
    "3.14",
    "٣٤",
    "½",
    "Ⅷ",
    "①",
    "é",
    "e\u{301}",
    "\u{301}",
    "a\u{323}\u{307}",
    "\u{344}",
    "\u{1100}\u{1161}\u{11a8}",
    "각",
    "\u{fb1d}",
    "ﬁ",
    "Å",
    "İi",
    "👩‍👩‍👧‍👦",
    "🇵🇪",
    "👍🏽",
    "❤️",
    "\u{200d}",
    "\u{feff}",
    "\0",
    "\u{4}",
    "\u{7f}",
    "\u{fffd}",
    "\u{10ffff}",
    "\u{11935}\u{11930}",
    "<0x41>",
    "<unk>",
    "<",
    "The message",
    "word both  The mes",
    "e\u{301}le\u{301}",
];

/// The special and added tokens' texts of all fixtures and variants.
const TOKENS: [&str; 16] = [
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "<repo_name>",
    "<s>",
    "</s>",
    "<sep>",
    "<end>",
    "both",
    " <sep>  ",
    "<se",
];

fn text() -> impl Strategy<Value = String> {
    let excerpt = (0..CORPUS.len(), 1usize..40).prop_map(|(from, len)| {
        let from = CORPUS.floor_char_boundary(from);
        CORPUS[from..CORPUS.ceil_char_boundary((from + len).min(CORPUS.len()))].to_owned()
    });
    let part = prop_oneof![
        4 => excerpt,
        4 => prop::sample::select(&PIECES[..]).prop_map(str::to_owned),
        1 => prop::sample::select(&TOKENS[..]).prop_map(str::to_owned),
        2 => any::<char>().prop_map(String::from),
        2 => prop::char::range('\0', '\u{3000}').prop_map(String::from),
        1 => (prop::sample::select(vec!['a', ' ', '-', '漢', '\u{301}', '\n']), 1usize..200)
            .prop_map(|(c, n)| String::from_iter(std::iter::repeat_n(c, n))),
    ];
    prop::collection::vec(part, 0..14).prop_map(|parts| parts.concat())
}

#[test]
fn the_corpus_has_the_same_tokens() {
    for pair in fixtures().iter().chain(&variants()) {
        pair.check(CORPUS);
        for line in CORPUS.lines() {
            pair.check(line);
        }
    }
}

#[test]
fn every_hard_piece_has_the_same_tokens() {
    for pair in fixtures().iter().chain(&variants()) {
        pair.check("");
        for piece in PIECES.iter().chain(&TOKENS) {
            pair.check(piece);
            pair.check(&format!("a{piece}"));
            pair.check(&format!("{piece} b{piece}{piece}c"));
        }
    }
}

#[test]
fn random_texts_have_the_same_tokens() {
    let pairs = fixtures();
    proptest!(ProptestConfig::with_cases(1500), |(text in text())| {
        for pair in &pairs {
            pair.check(&text);
        }
    });
}

#[test]
fn random_texts_have_the_same_tokens_with_other_settings() {
    let pairs = variants();
    proptest!(ProptestConfig::with_cases(300), |(text in text())| {
        for pair in &pairs {
            pair.check(&text);
        }
    });
}

#[test]
fn every_character_has_the_same_tokens() {
    let pairs = fixtures();
    // All of the first planes, then samples: characters of one block are alike.
    let chars = ('\0'..'\u{11000}').chain(('\u{11000}'..=char::MAX).step_by(97));
    let chars: Vec<char> = chars.collect();
    for few in chars.chunks(64) {
        let apart: String = few.iter().flat_map(|&c| [c, ' ']).collect();
        let together: String = few.iter().flat_map(|&c| ['e', c]).collect();
        for pair in &pairs {
            pair.check(&apart);
            pair.check(&together);
        }
    }
}

#[test]
fn what_has_no_token_is_counted() {
    let smollm = Tokenizer::from_hf(fixture("smollm").as_bytes(), None).unwrap();
    // U+0004 has no token, and neither has 0xF1, the first of the four bytes of U+40000.
    for (text, n_dropped, first) in [
        ("run", 0, None),
        ("a\u{4}b\u{4}", 2, Some('\u{4}')),
        ("a\u{40000}\u{4}", 2, Some('\u{40000}')),
    ] {
        let encoded = smollm.encode_counted(text, Specials::AsText).unwrap();
        assert_eq!(encoded.first_dropped, first, "{text:?}");
        assert_eq!(encoded.n_dropped, n_dropped, "{text:?}");
        assert_eq!(encoded.ids, smollm.encode(text, Specials::AsText).unwrap());
    }
    let unknown = Tokenizer::from_hf(fixture("sp_unknown").as_bytes(), None).unwrap();
    let encoded = unknown
        .encode_counted("a漢\u{4}", Specials::AsText)
        .unwrap();
    assert_eq!(encoded.n_dropped, 0, "there is a token for the unknown");
    assert_eq!(encoded.ids[1..], [TokenId(0), TokenId(0)]);
}
