//! Rows of a call and the errors of a backend.

use std::{error::Error, fmt};

use crate::TokenId;

/// One token of one sequence at one position.
///
/// Within a call the rows of a sequence are consecutive positions in rising order (rows of other
/// sequences may lie between them). The first of them is at most the number of positions that the
/// sequence has stored; if it is less, the positions from there on are forgotten first. A row attends
/// to what is stored and to the rows of its sequence before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sequence, from 0.
    pub seq: usize,
    /// Absolute position in the sequence, from 0.
    pub pos: usize,
    /// The token.
    pub token: TokenId,
    /// Whether logits are wanted.
    pub logits: bool,
}

/// The number of rows that want logits.
pub fn n_logits(rows: &[Row]) -> usize {
    rows.iter().filter(|r| r.logits).count()
}

/// What a backend was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLimits {
    /// Most rows of a call.
    pub max_rows: usize,
    /// Number of sequences.
    pub n_seqs: usize,
    /// Positions of a sequence.
    pub context_len: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
}

/// Checks the arguments of a [`Backend::forward`](super::Backend::forward); `stored` is the number of
/// positions that a sequence has stored. Allocates nothing.
///
/// # Errors
///
/// The first row that breaks the rules of [`Row`] or a limit, or a buffer of another length than
/// `[n_logits(rows), vocab_size]`.
pub fn check_rows(
    rows: &[Row],
    logits_len: usize,
    limits: &RowLimits,
    stored: impl Fn(usize) -> usize,
) -> Result<(), BackendError> {
    if rows.is_empty() || rows.len() > limits.max_rows {
        return Err(BackendError::RowCount {
            got: rows.len(),
            max: limits.max_rows,
        });
    }
    for (i, row) in rows.iter().enumerate() {
        if row.seq >= limits.n_seqs {
            return Err(BackendError::Sequence {
                row: i,
                seq: row.seq,
                n_seqs: limits.n_seqs,
            });
        }
        if row.token.index() >= limits.vocab_size {
            let vocab_size = limits.vocab_size;
            return Err(BackendError::Token {
                row: i,
                token: row.token,
                vocab_size,
            });
        }
        if row.pos >= limits.context_len {
            let context_len = limits.context_len;
            return Err(BackendError::ContextFull {
                row: i,
                pos: row.pos,
                context_len,
            });
        }
        let (least, most) = match rows[..i].iter().rfind(|r| r.seq == row.seq) {
            Some(before) => (before.pos + 1, before.pos + 1),
            None => (0, stored(row.seq)),
        };
        if row.pos < least || row.pos > most {
            return Err(BackendError::Position {
                row: i,
                pos: row.pos,
                least,
                most,
            });
        }
    }
    let expected = n_logits(rows) * limits.vocab_size;
    if logits_len != expected {
        return Err(BackendError::LogitsLen {
            expected,
            got: logits_len,
        });
    }
    Ok(())
}

/// Why a backend could not compute rows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendError {
    /// No rows, or more than the backend has room for.
    RowCount {
        /// Rows given.
        got: usize,
        /// Most rows of a call.
        max: usize,
    },
    /// A sequence that the backend does not have.
    Sequence {
        /// Index of the row.
        row: usize,
        /// The sequence.
        seq: usize,
        /// Number of sequences.
        n_seqs: usize,
    },
    /// A token that the model does not have.
    Token {
        /// Index of the row.
        row: usize,
        /// The token.
        token: TokenId,
        /// Tokens of the vocabulary.
        vocab_size: usize,
    },
    /// A position past the end of the context.
    ContextFull {
        /// Index of the row.
        row: usize,
        /// The position.
        pos: usize,
        /// Positions of the context.
        context_len: usize,
    },
    /// A position that leaves a hole or goes back within a call.
    Position {
        /// Index of the row.
        row: usize,
        /// The position.
        pos: usize,
        /// Least position allowed.
        least: usize,
        /// Largest position allowed.
        most: usize,
    },
    /// No page of the KV cache is left.
    KvFull {
        /// Pages of the pool.
        n_pages: usize,
    },
    /// The buffer for logits has the wrong length.
    LogitsLen {
        /// Logits wanted.
        expected: usize,
        /// Length given.
        got: usize,
    },
    /// A logit is not finite: the weights or the numbers of the config do not belong together.
    NotFinite {
        /// Index of the row.
        row: usize,
        /// The token whose logit it is.
        token: TokenId,
    },
    /// A device that has some of the layers failed; the backend cannot be used any more, since what the
    /// device holds is not known.
    Device {
        /// The device's name.
        name: String,
        /// What failed, and how.
        message: String,
    },
    /// A thread of the backend panicked; the backend cannot be used any more.
    Panicked {
        /// What the panic said.
        message: String,
    },
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RowCount { got, max } => write!(f, "{got} rows in a call: expected 1 to {max}"),
            Self::Sequence { row, seq, n_seqs } => {
                write!(
                    f,
                    "row {row} is of sequence {seq}, but there are {n_seqs} sequences"
                )
            }
            Self::Token {
                row,
                token,
                vocab_size,
            } => {
                write!(
                    f,
                    "row {row} has token {token}, but the vocabulary has {vocab_size} tokens"
                )
            }
            Self::ContextFull {
                row,
                pos,
                context_len,
            } => {
                write!(
                    f,
                    "row {row} is at position {pos}, but the context has {context_len} positions"
                )
            }
            Self::Position {
                row,
                pos,
                least,
                most,
            } => {
                write!(
                    f,
                    "row {row} is at position {pos}: expected {least} to {most}"
                )
            }
            Self::KvFull { n_pages } => {
                write!(f, "all {n_pages} pages of the KV cache are in use")
            }
            Self::LogitsLen { expected, got } => {
                write!(f, "room for {got} logits: expected {expected}")
            }
            Self::NotFinite { row, token } => {
                write!(f, "the logit of token {token} in row {row} is not finite")
            }
            Self::Device { name, message } => write!(
                f,
                "{name} failed: {message}; start again, with -ngl 0 to go without it"
            ),
            Self::Panicked { message } => write!(f, "a thread of the backend panicked: {message}"),
        }
    }
}

impl Error for BackendError {}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RowLimits = RowLimits {
        max_rows: 4,
        n_seqs: 2,
        context_len: 8,
        vocab_size: 10,
    };

    fn row(seq: usize, pos: usize) -> Row {
        Row {
            seq,
            pos,
            token: TokenId(3),
            logits: pos == 2,
        }
    }

    /// Sequence 0 has 2 positions stored, sequence 1 none.
    fn check(rows: &[Row]) -> Result<(), BackendError> {
        check_rows(rows, n_logits(rows) * 10, &LIMITS, |seq| {
            if seq == 0 { 2 } else { 0 }
        })
    }

    #[test]
    fn rows_of_a_sequence_continue_it_or_go_back() {
        assert_eq!(check(&[row(0, 2), row(1, 0), row(0, 3), row(1, 1)]), Ok(()));
        assert_eq!(check(&[row(0, 0), row(0, 1)]), Ok(()));
    }

    #[test]
    fn every_broken_rule_is_named() {
        let position = |row, pos, least, most| BackendError::Position {
            row,
            pos,
            least,
            most,
        };
        let cases = [
            (vec![], BackendError::RowCount { got: 0, max: 4 }),
            (
                vec![row(0, 2); 5],
                BackendError::RowCount { got: 5, max: 4 },
            ),
            (
                vec![row(2, 0)],
                BackendError::Sequence {
                    row: 0,
                    seq: 2,
                    n_seqs: 2,
                },
            ),
            (vec![row(0, 3)], position(0, 3, 0, 2)),
            (vec![row(1, 1)], position(0, 1, 0, 0)),
            (vec![row(0, 2), row(0, 2)], position(1, 2, 3, 3)),
            (vec![row(0, 2), row(1, 0), row(0, 4)], position(2, 4, 3, 3)),
            (
                vec![row(0, 8)],
                BackendError::ContextFull {
                    row: 0,
                    pos: 8,
                    context_len: 8,
                },
            ),
        ];
        for (rows, want) in cases {
            assert_eq!(check(&rows), Err(want), "{rows:?}");
        }
        let token = TokenId(10);
        let rows = [Row { token, ..row(0, 0) }];
        let want = BackendError::Token {
            row: 0,
            token,
            vocab_size: 10,
        };
        assert_eq!(check(&rows), Err(want));
        let want = BackendError::LogitsLen {
            expected: 10,
            got: 11,
        };
        assert_eq!(check_rows(&[row(0, 2)], 11, &LIMITS, |_| 2), Err(want));
    }
}
