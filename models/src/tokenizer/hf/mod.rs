//! Reading `tokenizer.json` and what `tokenizer_config.json` adds to it.

mod fields;
mod model;
mod special;
mod steps;

use serde_json::Value;

use super::{
    Tokenizer, TokenizerError,
    encode::{NO_TOKEN, Output},
    spec::{Alphabet, Spec},
};
use crate::TokenId;
use fields::{Fields, invalid, unsupported};

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// * `tokenizer_config`: the `tokenizer_config.json` beside it: `bos_token`, `eos_token`,
    ///   `pad_token`, `unk_token`, `add_bos_token`, `add_eos_token` and `added_tokens_decoder` are
    ///   read. How texts are split and merged is `tokenizer.json`'s matter alone.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Json`] where the file is not JSON; everything in it that is wrong or not
    /// understood is an error that says where it stands.
    pub fn from_hf(
        tokenizer_json: &[u8],
        tokenizer_config: Option<&Value>,
    ) -> Result<Self, TokenizerError> {
        let json: Value = serde_json::from_slice(tokenizer_json).map_err(TokenizerError::Json)?;
        let mut fields = Fields::new(&json, "")?;
        if let Some(version) = fields.take("version").filter(|version| *version != "1.0") {
            return Err(unsupported("version".to_owned(), version));
        }
        // Length limits of a training run; transformers sets both anew at each call.
        fields.take("truncation");
        fields.take("padding");
        let normalizers = steps::normalizers(fields.take("normalizer"))?;
        let (pre_tokenizers, alphabet) = steps::pre_tokenizers(fields.take("pre_tokenizer"))?;
        steps::check_first(&normalizers, &pre_tokenizers)?;
        let decoder = steps::decoder(fields.take("decoder"), alphabet)?;
        let model_json = fields.need("model")?;
        let model = model::read(model_json, alphabet)?;
        let around = special::post_processor(fields.take("post_processor"))?;
        let ids = &model_json["vocab"];
        let model_id = |text: &str| ids[text].as_u64().map(|id| id as u32);
        let n_model_tokens = ids.as_object().map_or(0, serde_json::Map::len);
        let mut added =
            special::Added::read(fields.take("added_tokens"), n_model_tokens, &model_id)?;
        fields.done()?;
        if let Some(config) = tokenizer_config {
            added.add_config(config)?;
        }
        let special = special::special(&mut added, &around, tokenizer_config)?;
        let spec = Spec {
            alphabet,
            normalizers,
            pre_tokenizers,
            decoder,
            unk: model.unk,
            fuse_unk: model.fuse_unk,
            byte_fallback: model.byte_fallback,
            ignore_merges: model.ignore_merges,
            added: added.into_tokens(),
            special,
        };
        let mut tokenizer = Self::new(spec, model.vocab, model.merges)?;
        tokenizer.check()?;
        for id in [around.before, around.after].into_iter().flatten() {
            if tokenizer.token_bytes(TokenId(id)).is_none() {
                let path = "post_processor.special_tokens";
                return Err(invalid(path, "made of tokens", &id.into()));
            }
        }
        tokenizer.find_whole_tokens();
        Ok(tokenizer)
    }

    /// A byte-level vocabulary may lack bytes, but to fall back on others for those makes no sense.
    fn check(&self) -> Result<(), TokenizerError> {
        let lacks_bytes = self.byte_ids.contains(&NO_TOKEN);
        if self.spec.alphabet == Alphabet::Bytes && self.spec.byte_fallback && lacks_bytes {
            return Err(TokenizerError::Unsupported {
                path: "model.byte_fallback".to_owned(),
                found: "true in a byte-level vocabulary that lacks bytes".to_owned(),
            });
        }
        Ok(())
    }

    /// Marks the tokens that their own merges end in: most words of a text are one of these, and
    /// need no merging.
    fn find_whole_tokens(&mut self) {
        let mut out = Output::default();
        for id in 0..self.vocab.n_ids() as u32 {
            let bytes = self.vocab.get(id).unwrap_or_default();
            if self.vocab.find(bytes) == Some(id) && self.is_whole(id, bytes, &mut out) {
                self.vocab.set_whole(id);
            }
        }
    }
}
