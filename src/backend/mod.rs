//! Machines that run the phases.

pub mod cpu;
