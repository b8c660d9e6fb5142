//! Prints the SIMD levels that this CPU has, one in a line, plainest first.
#![allow(clippy::print_stdout, reason = "that is its purpose")]

fn main() {
    for kernels in chaski_kernels_simd::Kernels::available() {
        println!("{}", kernels.name());
    }
}
