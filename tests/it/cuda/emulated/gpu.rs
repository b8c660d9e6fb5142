//! The same launches on a GPU, where there is one.

use std::sync::{Mutex, MutexGuard, OnceLock};

use chaski::backend::cuda::{
    args::{Args, Field},
    device::{Buffer, Device, Launch},
    open,
};

/// The GPU, if there is one: for one test at a time.
pub(super) fn gpu() -> Option<MutexGuard<'static, Box<dyn Device>>> {
    static GPU: OnceLock<Option<Mutex<Box<dyn Device>>>> = OnceLock::new();
    let found = GPU.get_or_init(|| match open() {
        Ok(opened) => Some(Mutex::new(opened.device)),
        Err(error) => {
            assert!(
                std::env::var_os("CHASKI_EXPECT_GPU").is_none(),
                "CHASKI_EXPECT_GPU is set, but {error}"
            );
            None
        }
    });
    // A test that failed holding it has left nothing behind that another one reads.
    found
        .as_ref()
        .map(|gpu| gpu.lock().unwrap_or_else(|e| e.into_inner()))
}

/// Arguments as words.
struct Words(Vec<u64>);

impl Args for Words {
    const NAME: &'static str = "Words";

    fn fields(&self, to: &mut dyn FnMut(&'static str, &dyn Field)) {
        self.0.iter().for_each(|word| to("word", word));
    }
}

/// Runs a launch over copies of arrays: their addresses in its arguments, and bytes, which become what they are after it.
pub(super) fn run(
    gpu: &dyn Device,
    launch: &Launch,
    arrays: &mut [(u64, Vec<u8>)],
) -> Result<(), String> {
    let said = |e: chaski::backend::cuda::DeviceError| e.to_string();
    let mut copies: Vec<Buffer> = Vec::new();
    for (_, bytes) in arrays.iter() {
        let copy = gpu.alloc(bytes.len()).map_err(said)?;
        gpu.upload(&copy, 0, bytes).map_err(said)?;
        copies.push(copy);
    }
    let words = launch.args.words().iter().map(|&word| {
        // Two 32-bit fields of a word look like an address if the second one is of about 2^15; none of these tests has it.
        let at = arrays
            .iter()
            .position(|(a, bytes)| (*a..*a + bytes.len() as u64).contains(&word));
        at.map_or(word, |i| copies[i].address() + (word - arrays[i].0))
    });
    assert_eq!(launch.args.len() % 8, 0, "arguments of whole words");
    let there = Launch::new(launch.kernel, launch.shape, &Words(words.collect()));
    gpu.prepare(&[launch.kernel]).map_err(said)?;
    gpu.launch(&there).map_err(said)?;
    for ((_, bytes), copy) in arrays.iter_mut().zip(&copies) {
        gpu.download(copy, 0, bytes).map_err(said)?;
    }
    Ok(())
}
