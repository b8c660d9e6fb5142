//! What is said where the calls of `linux` do not exist.

use super::OsError;

pub(super) const CAN_PIN: bool = false;

pub(super) fn pin_thread(_: usize) -> Result<(), OsError> {
    Err(OsError::NotSupported {
        what: "binding threads to processors",
    })
}

pub(super) fn lock(_: &[u8]) -> Result<(), OsError> {
    Err(OsError::NotSupported {
        what: "locking memory (--mlock)",
    })
}

pub(super) fn will_need(_: &[u8]) {}

pub(super) fn populate(_: &[u8]) {}

pub(super) fn is_resident(_: &[u8]) -> Option<bool> {
    None
}

#[derive(Debug)]
pub(super) struct Huge(std::convert::Infallible);

impl AsRef<[u8]> for Huge {
    fn as_ref(&self) -> &[u8] {
        match self.0 {}
    }
}

pub(super) fn copy_to_huge_pages(_: &[u8]) -> Result<Huge, OsError> {
    Err(OsError::NotSupported {
        what: "memory in huge pages (--hugepages)",
    })
}

pub(super) const fn input_waits() -> bool {
    false
}
