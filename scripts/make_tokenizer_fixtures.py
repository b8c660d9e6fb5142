#!/usr/bin/env python3
"""Train the small tokenizers that the tests of models/ compare with Hugging Face's library.

  make_tokenizer_fixtures.py [OUT_DIR]     default: models/tests/fixtures/tokenizers

Reads corpus.txt in OUT_DIR and writes one tokenizer.json for each style beside it. Training has no
randomness: the same corpus and the same version of the library give the same files.

Needs: pip install tokenizers==0.23.3
"""
import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
META = "\u2581"


def special(text: str) -> AddedToken:
    return AddedToken(text, special=True, normalized=False)


def train(tokenizer: Tokenizer, corpus: list[str], vocab_size: int, alphabet: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(corpus, trainer)


def byte_level(corpus, pre_tokenizer, normalizer, vocab_size, ignore_merges=False, drop=""):
    """A byte-level tokenizer; the characters of `drop` stand for bytes that get no token."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(drop))
    train(tokenizer, corpus, vocab_size, alphabet)
    return tokenizer


def llama3(corpus):
    split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated", invert=False)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = byte_level(
        corpus, pre_tokenizers.Sequence([split, bytes_]), None, 900, ignore_merges=True
    )
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
    tokenizer.add_special_tokens([special(t) for t in [*names, "<|eot_id|>"]])
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
        special_tokens=[("<|begin_of_text|>", bos)],
    )
    byte_offsets = processors.ByteLevel(trim_offsets=False)
    tokenizer.post_processor = processors.Sequence([byte_offsets, template])
    return json.loads(tokenizer.to_str())


def qwen(corpus):
    split = pre_tokenizers.Split(Regex(QWEN2), behavior="isolated", invert=False)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    sequence = pre_tokenizers.Sequence([split, bytes_])
    tokenizer = byte_level(corpus, sequence, normalizers.NFC(), 900)
    tokenizer.add_special_tokens([special(t) for t in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]])
    # Qwen's tool calls are added tokens that are not special.
    plain = [AddedToken(t, normalized=False) for t in ["<tool_call>", "</tool_call>", "<think>"]]
    tokenizer.add_tokens(plain)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return json.loads(tokenizer.to_str())


def smollm(corpus):
    digits = pre_tokenizers.Digits(individual_digits=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    # As SmolLM2's, the vocabulary has no token for some bytes: U+0004, U+0006, 0xF1, 0xF2.
    sequence = pre_tokenizers.Sequence([digits, bytes_])
    tokenizer = byte_level(corpus, sequence, None, 700, drop="\u0104\u0106\u00f1\u00f2")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
    document = json.loads(tokenizer.to_str())
    # There the special tokens come first.
    model = document["model"]
    model["vocab"] = {t: i for i, t in enumerate([*specials, *model["vocab"]])}
    document["added_tokens"] = [added(i, t) for i, t in enumerate(specials)]
    return document


def added(id_: int, content: str) -> dict:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id_, "content": content, **flags, "special": True}


def sentencepiece(corpus, vocab_size, fallback, min_count=2):
    """A vocabulary as SentencePiece's BPE has it: <unk> <s> </s>, the bytes, then pieces by rank.

    As in its conversion by transformers there is a merge for every way to split a piece into two.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=META, prepend_scheme="always")
    counts: dict[str, int] = {}
    for line in corpus:
        for c in line.replace(" ", META):
            counts[c] = counts.get(c, 0) + 1
    # Rare characters have no token of their own: they become bytes, or unknown.
    alphabet = sorted(c for c, n in counts.items() if n >= min_count and c not in "\t\n")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, limit_alphabet=len(alphabet),
        show_progress=False, min_frequency=2,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = [t for t, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    singles = [t for t in pieces if len(t) == 1]
    joined = [t for t in pieces if len(t) > 1]
    controls = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{b:02X}>" for b in range(256)] if fallback else []
    vocab = {t: i for i, t in enumerate([*controls, *bytes_, *joined, *singles])}
    merges = []
    for piece in joined:
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        splits = [(a, b) for a, b in splits if a in vocab and b in vocab]
        merges += sorted(splits, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(i, t) for i, t in enumerate(controls)],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("<s>", 0), text("A", 0)],
            "pair": [token("<s>", 0), text("A", 0), token("<s>", 1), text("B", 1)],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": META}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": fallback,
            "byte_fallback": fallback,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def token(content: str, type_id: int) -> dict:
    return {"SpecialToken": {"id": content, "type_id": type_id}}


def text(which: str, type_id: int) -> dict:
    return {"Sequence": {"id": which, "type_id": type_id}}


def sp_legacy(corpus):
    """Llama 2, TinyLlama, Mistral 7B as their files were first converted."""
    document = sentencepiece(corpus, 700, fallback=True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": META}
    prepend = {"type": "Prepend", "prepend": META}
    document["normalizer"] = {"type": "Sequence", "normalizers": [prepend, replace]}
    # Merges were written as one text each.
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    return document


def sp_metaspace(corpus):
    """The same without `legacy`: Mistral's and Llama 2's later files."""
    document = sentencepiece(corpus, 700, fallback=True)
    document["pre_tokenizer"] = {
        "type": "Metaspace", "replacement": META, "prepend_scheme": "first", "split": False,
    }
    return document


def sp_unknown(corpus):
    """Without bytes to fall back on, split into words, unknown characters one by one."""
    document = sentencepiece(corpus, 500, fallback=False, min_count=8)
    document["pre_tokenizer"] = {
        "type": "Metaspace", "replacement": META, "prepend_scheme": "always", "split": True,
    }
    return document


def main() -> None:
    default = Path(__file__).parent.parent / "models/tests/fixtures/tokenizers"
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    corpus = (out / "corpus.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    for make in [llama3, qwen, smollm, sp_legacy, sp_metaspace, sp_unknown]:
        document = make(corpus)
        path = out / f"{make.__name__}.json"
        text_ = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        path.write_text(text_ + "\n", encoding="utf-8")
        print(path.name, len(document["model"]["vocab"]), "tokens", len(text_), "bytes")


if __name__ == "__main__":
    main()
