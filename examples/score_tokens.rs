//! The likeliest next token after each position of given texts: `score_tokens MODEL.chaski`.
//!
//! Standard input has one JSON array of token ids a line; for each a line comes out with the array
//! of the likeliest tokens after each of them. `scripts/parity.py` compares these with llama.cpp's.

use std::{
    error::Error,
    io::{self, BufRead, Write},
    sync::Arc,
};

use chaski::{Model, ModelOptions, Session, SessionOptions};
use chaski_models::TokenId;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("usage: score_tokens MODEL.chaski < TOKENS.jsonl")?;
    let model = Arc::new(Model::open(&path, &ModelOptions::default())?);
    let options = SessionOptions {
        logit_rows: 32,
        ..SessionOptions::default()
    };
    let mut session = Session::new(&model, &options)?;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let tokens: Vec<TokenId> = serde_json::from_str(&line?)?;
        let mut best = Vec::with_capacity(tokens.len());
        session.clear();
        session.extend_with(&tokens, 0, &mut |_, logits| {
            let top = (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b });
            best.push(top);
        })?;
        writeln!(out, "{}", serde_json::to_string(&best)?)?;
    }
    Ok(())
}
