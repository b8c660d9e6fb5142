//! Under construction.
pub mod backend;
