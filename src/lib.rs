//! Under construction.
pub mod catalog;
