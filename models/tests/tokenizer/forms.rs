//! The fast form and hostile versions of it.

use chaski_models::tokenizer::{
    FAST_VERSION, Specials, Tokenizer, TokenizerError, compress_canonical, decompress_canonical,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::common::{CORPUS, FIXTURES, fixture, tokenizer};

/// Where the checksum stands, and where what it covers begins.
const CHECKSUM: usize = 12;
const BODY: usize = 20;

/// Makes the checksum right again.
fn sealed(mut fast: Vec<u8>) -> Vec<u8> {
    let checksum = xxh3_64(&fast[BODY..]);
    fast[CHECKSUM..BODY].copy_from_slice(&checksum.to_le_bytes());
    fast
}

/// Reads hostile bytes; what can be read has to be usable.
fn try_all(fast: &[u8]) -> Result<(), TokenizerError> {
    let tokenizer = Tokenizer::from_fast(fast)?;
    for text in [
        "the messages 123",
        "漢字 é\u{40000}",
        "a<|im_end|><s>",
        &CORPUS[..400],
    ] {
        for specials in [Specials::Parse, Specials::AsText] {
            if let Ok(ids) = tokenizer.encode(text, specials) {
                for id in ids {
                    let _ = (tokenizer.token_bytes(id), tokenizer.is_special(id));
                }
            }
        }
    }
    let _ = tokenizer.to_fast();
    Ok(())
}

fn field(err: &TokenizerError) -> &'static str {
    match err {
        TokenizerError::FastDamaged { field } => field,
        _ => panic!("{err}"),
    }
}

#[test]
fn the_fast_form_is_the_same_tokenizer() {
    for (name, json) in FIXTURES {
        let original = tokenizer(name);
        let fast = original.to_fast();
        let again = Tokenizer::from_fast(&fast).unwrap();
        assert_eq!(again.to_fast(), fast, "{name}");
        for specials in [Specials::Parse, Specials::AsText] {
            let ids = original.encode(CORPUS, specials).unwrap();
            assert_eq!(again.encode(CORPUS, specials).unwrap(), ids, "{name}");
        }
        let compressed = compress_canonical(json.as_bytes());
        assert_eq!(
            decompress_canonical(&compressed, 1 << 20).unwrap(),
            json.as_bytes()
        );
    }
}

#[test]
fn another_version_is_told_apart_from_damage() {
    let mut fast = tokenizer("qwen").to_fast();
    fast[8] += 1;
    match Tokenizer::from_fast(&fast) {
        Err(TokenizerError::FastVersion { found, expected }) => {
            assert_eq!((found, expected), (FAST_VERSION + 1, FAST_VERSION));
        }
        other => panic!("{other:?}"),
    }
    let err = Tokenizer::from_fast(fixture("qwen").as_bytes()).unwrap_err();
    assert!(matches!(err, TokenizerError::NotFastForm), "{err}");
}

#[test]
fn a_truncated_fast_form_is_refused_at_every_length() {
    let fast = tokenizer("sp_unknown").to_fast();
    for len in 0..fast.len() {
        assert!(Tokenizer::from_fast(&fast[..len]).is_err(), "{len}");
        if len >= BODY {
            assert!(
                Tokenizer::from_fast(&sealed(fast[..len].to_vec())).is_err(),
                "{len}"
            );
        }
    }
    assert_eq!(
        field(&Tokenizer::from_fast(&[&fast[..], b"\0"].concat()).unwrap_err()),
        "checksum"
    );
    let longer = sealed([&fast[..], b"\0"].concat());
    assert_eq!(field(&Tokenizer::from_fast(&longer).unwrap_err()), "end");
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let fast = tokenizer("sp_unknown").to_fast();
    for at in 0..fast.len() {
        let mut changed = fast.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(Tokenizer::from_fast(&changed).is_err(), "byte {at}");
    }
}

#[test]
fn changed_bytes_under_a_right_checksum_do_no_harm() {
    for name in ["sp_unknown", "qwen"] {
        let fast = tokenizer(name).to_fast();
        let spec_end =
            BODY + 16 + u32::from_le_bytes(fast[BODY..BODY + 4].try_into().unwrap()) as usize;
        let (mut read, mut refused) = (0, 0);
        for at in (BODY..spec_end).chain((spec_end..fast.len()).step_by(13)) {
            for value in [0, 1, 0x7f, 0xff, fast[at] ^ 1, fast[at].wrapping_add(1)] {
                let mut changed = fast.clone();
                changed[at] = value;
                match try_all(&sealed(changed)) {
                    Ok(()) => read += 1,
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(
            read > 0 && refused > 0,
            "{name}: {read} read, {refused} refused"
        );
    }
}

#[test]
fn counts_at_their_limits_are_refused() {
    let fast = tokenizer("qwen").to_fast();
    for (i, name) in ["spec_len", "n_ids", "bytes_len", "n_merges"]
        .into_iter()
        .enumerate()
    {
        let at = BODY + 4 * i;
        let old = u32::from_le_bytes(fast[at..at + 4].try_into().unwrap());
        for value in [0, 1, old - 1, old + 1, 1 << 24, u32::MAX / 12 + 1, u32::MAX] {
            let mut changed = fast.clone();
            changed[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let err = Tokenizer::from_fast(&sealed(changed)).unwrap_err();
            assert!(
                matches!(err, TokenizerError::FastDamaged { .. }),
                "{name} = {value}: {err}"
            );
        }
    }
}

/// Changes the JSON header by `change`.
fn with_spec(name: &str, change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
    let fast = tokenizer(name).to_fast();
    let len = u32::from_le_bytes(fast[BODY..BODY + 4].try_into().unwrap()) as usize;
    let spec_at = BODY + 16;
    let mut spec = serde_json::from_slice(&fast[spec_at..spec_at + len]).unwrap();
    change(&mut spec);
    let spec = spec.to_string().into_bytes();
    let mut changed = fast[..BODY].to_vec();
    changed.extend((spec.len() as u32).to_le_bytes());
    changed.extend(&fast[BODY + 4..spec_at]);
    changed.extend(&spec);
    changed.extend(&fast[spec_at + len..]);
    sealed(changed)
}

#[test]
fn a_header_that_cannot_be_is_refused_by_its_field() {
    assert!(Tokenizer::from_fast(&with_spec("qwen", |_| {})).is_ok());
    let refused = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
        field(&Tokenizer::from_fast(&with_spec(name, change)).unwrap_err())
    };
    assert_eq!(
        refused("qwen", &|spec| spec["unk"] = 1_000_000.into()),
        "spec.unk"
    );
    assert_eq!(refused("qwen", &|spec| spec["unk"] = (-1).into()), "spec");
    assert_eq!(refused("qwen", &|spec| spec["more"] = 1.into()), "spec");
    assert_eq!(
        refused("qwen", &|spec| spec["special"]["eos"] = 999_999.into()),
        "spec.special"
    );
    assert_eq!(
        refused("qwen", &|spec| spec["added"][0]["id"] = u32::MAX.into()),
        "spec.added"
    );
    assert_eq!(
        refused("qwen", &|spec| spec["added"][0]["content"] = "".into()),
        "spec.added"
    );
    assert_eq!(
        refused("qwen", &|spec| spec["added"][1]["id"] =
            spec["added"][0]["id"].clone()),
        "spec.added"
    );
    assert_eq!(
        refused("qwen", &|spec| spec["decoder"]["byte_fallback"] =
            true.into()),
        "spec.decoder"
    );
    assert_eq!(
        refused("sp_legacy", &|spec| spec["decoder"]["replace"][0][1] =
            "longer".into()),
        "spec.pattern"
    );
    assert_eq!(
        refused("sp_legacy", &|spec| {
            spec["normalizers"][1]["Replace"]["pattern"]["Text"] = "".into();
        }),
        "spec.pattern"
    );
    let bad = with_spec("qwen", |spec| {
        spec["pre_tokenizers"][0]["Split"]["pattern"]["Regex"] = "(".into()
    });
    let err = Tokenizer::from_fast(&bad).unwrap_err();
    assert!(matches!(err, TokenizerError::Pattern { .. }), "{err}");
}
