//! The command line as users of llama.cpp and ollama write it: what can be understood is, and what
//! cannot be is an error that says how it is written here.

use std::ffi::OsString;

use clap::{
    builder::StyledStr,
    error::{ContextKind, ContextValue, Error, ErrorKind},
};

/// llama.cpp's flags of several letters behind one dash, each of which is a long name here as well.
const ONE_DASH: [&str; 4] = ["-ngl", "-ctk", "-ub", "-sys"];

/// The arguments, flags of several letters spelled as clap reads them: with two dashes. To clap
/// `-ngl` is `-n gl`, `-ctk` is `-c tk` and `-sys` is `-s ys`, none of which is a number.
pub(crate) fn spelled(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut is_flag = true;
    let spell = |arg: OsString| {
        is_flag &= arg != "--";
        match arg.to_str() {
            Some(text) if is_flag && ONE_DASH.contains(&name_of(text)) => format!("-{text}").into(),
            _ => arg,
        }
    };
    args.map(spell).collect()
}

/// A flag without its `=VALUE`.
fn name_of(flag: &str) -> &str {
    flag.split('=').next().unwrap_or(flag)
}

/// The error with a tip, if it is about a word that other programs have.
pub(crate) fn with_tip(mut error: Error) -> Error {
    let Some(tip) = tip(&error) else {
        return error;
    };
    let tips = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
    error.insert(ContextKind::Suggested, tips);
    error
}

fn tip(error: &Error) -> Option<&'static str> {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::UnknownArgument => match name_of(word(ContextKind::InvalidArg)?) {
            "-m" | "--model" | "-p" | "--prompt" => Some(
                "model and prompt stand without flags, behind the command: chaski run MODEL PROMPT",
            ),
            "-ctv" | "--ctv" | "--cache-type-k" | "--cache-type-v" => {
                Some("keys and values have one type here: --kv")
            }
            _ => None,
        },
        ErrorKind::InvalidSubcommand => match word(ContextKind::InvalidSubcommand)? {
            "chat" => Some("chaski run MODEL without a prompt chats"),
            "list" | "ls" => Some("chaski models lists what can be fetched by name"),
            "pull" => Some("chaski run NAME fetches a model on its first use"),
            "show" => Some("chaski inspect FILE shows what a file holds"),
            "quantize" | "quantise" | "create" => {
                Some("chaski convert SRC --quant q4 makes a file of a checkpoint or a GGUF file")
            }
            "perplexity" => Some("chaski eval MODEL --text FILE measures it"),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spell(args: &[&str]) -> Vec<OsString> {
        spelled(args.iter().map(OsString::from))
    }

    #[test]
    fn flags_of_several_letters_may_have_one_dash() {
        assert_eq!(
            spell(&[
                "run", "m", "-ngl", "all", "-ngl=3", "-n", "-nglx", "--", "-ngl"
            ]),
            [
                "run", "m", "--ngl", "all", "--ngl=3", "-n", "-nglx", "--", "-ngl"
            ]
        );
        assert_eq!(
            spell(&["-ctk", "q8_0", "-ub", "64", "-sys", "Be brief.", "-s", "1"]),
            [
                "--ctk",
                "q8_0",
                "--ub",
                "64",
                "--sys",
                "Be brief.",
                "-s",
                "1"
            ]
        );
    }
}
