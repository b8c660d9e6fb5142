//! What the fuzzer and the ordinary tests do with hostile bytes.
#![allow(dead_code, unreachable_pub, reason = "each user uses a part")]

use std::path::Path;

use chaski_convert::{
    ConvertOptions, Recipe, plan,
    source::{Source, gguf::GgufFile},
};
use chaski_models::tokenizer::{Specials, Tokenizer};

/// Opens `file` as GGUF and reads all of it; must not panic. Whether it opened, and whether a conversion would begin.
pub fn drive(file: &[u8]) -> (bool, bool) {
    let Ok(source) = GgufFile::from_bytes(Path::new("hostile.gguf"), file.to_vec()) else {
        return (false, false);
    };
    let mut all = 0;
    for (i, tensor) in source.tensors().iter().enumerate() {
        let mut raw = Vec::new();
        source.read_raw(i, 0..tensor.rows, &mut raw).unwrap();
        assert_eq!(raw.len() as u64, tensor.bytes, "{}", tensor.name);
        let mut floats = vec![0.0; tensor.rows * tensor.cols];
        source.decode(i, 0, &raw, &mut floats).unwrap();
        all += raw.len();
    }
    assert!(all < file.len(), "{all} bytes of tensors in {}", file.len());
    if let Ok(files) = source.tokenizer() {
        let config = files.tokenizer_config.as_ref();
        if let Ok(tokenizer) = Tokenizer::from_hf(&files.tokenizer_json, config) {
            assert!(tokenizer.vocab_size() <= source.config().vocab_size);
            for text in ["", "ab b", "\u{2581}a 12\n", "<|im_end|>\u{1f600}"] {
                for specials in [Specials::Parse, Specials::AsText] {
                    for id in tokenizer.encode(text, specials).unwrap_or_default() {
                        assert!(tokenizer.token_bytes(id).is_some(), "{text:?}: {id:?}");
                    }
                }
            }
        }
    }
    // A recipe of this name there is.
    let options = ConvertOptions::new(Recipe::named("q4").unwrap());
    (true, plan(&source, &options).is_ok())
}
