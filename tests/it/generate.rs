//! Answers, on a tiny model that was converted from a checkpoint.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use chaski::{
    Model, ModelOptions, Session, SessionError, SessionOptions,
    generate::{FinishReason, GenerateOptions, Generation, Piece},
    sampler::{Sampler, SamplerOptions},
};
use chaski_convert::{ConvertOptions, Recipe, Silent, convert, source};
use chaski_models::{
    TokenId,
    testing::{Variant, write_checkpoint},
    tokenizer::{DecodeOptions, Specials, StreamDecoder, TextStart, Tokenizer},
};

/// A model with a tokenizer, and a text that it has read.
struct Fixture {
    tokenizer: Tokenizer,
    session: Session,
    prompt: Vec<TokenId>,
}

fn fixture(dir: &Path, context_len: usize) -> Fixture {
    let checkpoint = dir.join("checkpoint");
    let file = dir.join("tiny.chaski");
    if !file.exists() {
        write_checkpoint(&checkpoint, Variant::Llama, &Default::default()).unwrap();
        let source = source::open(&checkpoint).unwrap();
        let options = ConvertOptions::new(Recipe::named("q8").unwrap());
        convert(&*source, &file, &options, &Silent).unwrap();
    }
    let model = Arc::new(Model::open(&file, &ModelOptions::default()).unwrap());
    let loaded = model.tokenizer().unwrap();
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
    let options = SessionOptions {
        context_len: Some(context_len),
        threads: Some(2),
        ubatch: 4,
        ..SessionOptions::default()
    };
    let mut session = Session::new(&model, &options).unwrap();
    let prompt = loaded
        .tokenizer
        .encode("the woman and her son", Specials::AsText)
        .unwrap();
    session.extend(&prompt).unwrap();
    Fixture {
        tokenizer: loaded.tokenizer,
        session,
        prompt,
    }
}

fn greedy(session: &Session) -> Sampler {
    Sampler::new(
        SamplerOptions::greedy(),
        session.model().config().vocab_size,
    )
    .unwrap()
}

fn answer(f: &mut Fixture, options: GenerateOptions) -> (Vec<Piece>, Option<FinishReason>) {
    let mut sampler = greedy(&f.session);
    let mut generation =
        Generation::new(&mut f.session, &mut sampler, &f.tokenizer, options).unwrap();
    let pieces: Vec<Piece> = generation.by_ref().map(Result::unwrap).collect();
    (pieces, generation.finish_reason())
}

fn ids(pieces: &[Piece]) -> Vec<TokenId> {
    pieces.iter().filter_map(|p| p.id).collect()
}

fn text(pieces: &[Piece]) -> String {
    pieces.iter().map(|p| p.text.as_str()).collect()
}

fn decode(tokenizer: &Tokenizer, ids: &[TokenId]) -> String {
    let mut decoder = StreamDecoder::new(DecodeOptions::default());
    let text: String = ids.iter().map(|&id| decoder.push(tokenizer, id)).collect();
    text + &decoder.finish()
}

/// Twenty tokens, chosen by hand: the likeliest, of equals the first.
fn by_hand(f: &mut Fixture) -> Vec<TokenId> {
    let mut ids = Vec::new();
    for _ in 0..20 {
        let logits = f.session.logits().unwrap();
        let likeliest = (0..logits.len())
            .reduce(|best, i| if logits[i] > logits[best] { i } else { best })
            .unwrap();
        ids.push(TokenId(likeliest as u32));
        f.session.extend(&ids[ids.len() - 1..]).unwrap();
    }
    ids
}

#[test]
fn an_answer_is_the_likeliest_tokens_and_their_text() {
    let dir = tempfile::tempdir().unwrap();
    let mut f = fixture(dir.path(), 100);
    let want = by_hand(&mut f);
    f.session.set_text(&f.prompt.clone()).unwrap();
    let options = GenerateOptions {
        max_tokens: Some(20),
        logprobs: Some(3),
        ..GenerateOptions::default()
    };
    let (pieces, reason) = answer(&mut f, options);
    assert_eq!(
        (ids(&pieces), reason),
        (want.clone(), Some(FinishReason::Length))
    );
    let whole = decode(&f.tokenizer, &want);
    assert_eq!(text(&pieces), whole);
    for piece in pieces.iter().filter(|p| p.id.is_some()) {
        let (own, top) = piece.logprobs.as_ref().unwrap();
        assert_eq!((top.len(), top[0], Some(own.id)), (3, *own, piece.id));
        assert!(top[0].logprob >= top[1].logprob && top[1].logprob >= top[2].logprob);
        assert!(top.iter().map(|t| t.logprob.exp()).sum::<f64>() <= 1.0);
    }
    // The text grew by all tokens but the last, which nothing followed.
    assert_eq!(f.session.tokens(), [&f.prompt[..], &want[..19]].concat());
}

#[test]
fn an_answer_ends_at_stop_texts_end_tokens_and_the_contexts_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut f = fixture(dir.path(), 100);
    let all = by_hand(&mut f);
    let whole = decode(&f.tokenizer, &all);
    // From the middle of the text on, over several tokens, but not to the end, where a character
    // may be incomplete.
    let chars: Vec<char> = whole.chars().collect();
    let stop: String = chars[chars.len() / 2..chars.len() - 2].iter().collect();
    assert!(stop.chars().count() > 3, "{whole:?}");
    let prompt = f.prompt.clone();
    f.session.set_text(&prompt).unwrap();
    let options = GenerateOptions {
        max_tokens: Some(20),
        stops: vec!["no such text".to_owned(), stop.clone()],
        ..GenerateOptions::default()
    };
    let (pieces, reason) = answer(&mut f, options);
    assert_eq!(reason, Some(FinishReason::Stop));
    assert_eq!(text(&pieces), whole[..whole.find(&stop).unwrap()]);

    let end = all[7];
    let n = all.iter().position(|&id| id == end).unwrap();
    f.session.set_text(&prompt).unwrap();
    let options = GenerateOptions {
        end_ids: vec![end],
        ..GenerateOptions::default()
    };
    let (pieces, reason) = answer(&mut f, options);
    assert_eq!(
        (ids(&pieces), reason),
        (all[..n].to_vec(), Some(FinishReason::End))
    );

    let mut small = fixture(dir.path(), prompt.len() + 5);
    let (pieces, reason) = answer(&mut small, GenerateOptions::default());
    // Five are read, and the logits after the fifth give one more.
    assert_eq!(
        (ids(&pieces), reason),
        (all[..6].to_vec(), Some(FinishReason::Context))
    );
}

#[test]
fn an_answer_and_the_reading_of_a_text_can_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let mut f = fixture(dir.path(), 100);
    let cancel = Arc::new(AtomicBool::new(false));
    let options = GenerateOptions {
        cancel: Some(Arc::clone(&cancel)),
        ..GenerateOptions::default()
    };
    let mut sampler = greedy(&f.session);
    let mut generation =
        Generation::new(&mut f.session, &mut sampler, &f.tokenizer, options).unwrap();
    let mut n = 0;
    for piece in generation.by_ref() {
        n += usize::from(piece.unwrap().id.is_some());
        cancel.store(n == 3, Ordering::Relaxed);
    }
    assert_eq!(
        (n, generation.finish_reason()),
        (3, Some(FinishReason::Cancelled))
    );

    f.session.set_cancel(Some(cancel));
    let len = f.session.tokens().len();
    let error = f.session.extend(&f.prompt).unwrap_err();
    let of = f.prompt.len();
    assert!(
        matches!(error, SessionError::Cancelled { read: 0, of: n } if n == of),
        "{error}"
    );
    assert_eq!(f.session.tokens().len(), len);
    f.session.set_cancel(None);
    f.session.extend(&f.prompt).unwrap();
    assert!(f.session.logits().is_some());
}

#[test]
fn a_text_that_is_continued_keeps_the_space_that_a_text_of_its_own_drops() {
    let dir = tempfile::tempdir().unwrap();
    let mut f = fixture(dir.path(), 16);
    // A vocabulary that writes a space before each text; the model's choices are what they are.
    let json = include_bytes!("../../models/tests/fixtures/tokenizers/sp_legacy.json");
    f.tokenizer = Tokenizer::from_hf(json, None).unwrap();
    let mut with_space = 0;
    for id in 0..120 {
        let mut text = |start| {
            f.session.set_text(&[TokenId(id)]).unwrap();
            let options = GenerateOptions {
                max_tokens: Some(3),
                start,
                ..GenerateOptions::default()
            };
            let (pieces, _) = answer(&mut f, options);
            pieces.into_iter().map(|p| p.text).collect::<String>()
        };
        let own = text(TextStart::Beginning);
        let continued = text(TextStart::Continued);
        if continued != own {
            assert_eq!(continued, format!(" {own}"));
            with_space += 1;
        }
    }
    assert!(with_space > 0, "no answer begins with a space");
}
