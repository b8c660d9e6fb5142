//! Chat templates: what they render, against jinja2, and what hostile ones come to.
#![allow(clippy::unwrap_used)] // helpers of tests are no tests to clippy

mod golden;
mod hostile;
