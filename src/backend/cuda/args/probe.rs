//! What the memory gives, measured.

use super::{DeviceInfo, Shape, pack::args};

args! {
    /// Reads memory from start to end and folds it into one number for each block of threads.
    pub struct ReadProbeArgs {
        /// What is read, aligned to 16 bytes.
        pub data: u64,
        /// Units of 16 bytes.
        pub n: u64,
        /// u32 `[blocks]`: the exclusive or of all words that a block read.
        pub out: u64,
    }
}

impl ReadProbeArgs {
    /// Eight blocks for each multiprocessor, as many as run at once.
    pub const fn shape(device: &DeviceInfo) -> Shape {
        Shape {
            grid: [8 * device.multiprocessors, 1, 1],
            threads: 256,
            shared: 0,
        }
    }
}
