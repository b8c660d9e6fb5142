//! What waits on standard input.

/// Whether somebody has written text to standard input that was not read yet, told without reading or
/// waiting: a pipe with something in it, or a file that is not at its end. Only Linux tells; elsewhere
/// `false`.
pub fn input_waits() -> bool {
    super::imp::input_waits()
}
