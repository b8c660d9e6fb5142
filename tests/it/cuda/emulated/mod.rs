//! The kernels' source, run by an emulation, against what each is to compute by definition: equal bit for bit. On a machine
//! with a GPU the same launches run there, too.

mod attention;
mod elementwise;
mod gpu;
mod library;
mod matrix;
mod models;
mod probe;

use std::{
    fmt::Write as _,
    process::Command,
    sync::{Arc, Mutex},
};

use chaski::backend::cuda::{
    args::{
        Args, AttendArgs, AttendMergeArgs, AttendRowsArgs, Codes, Kernel, MatrixArgs, MatrixPart,
        NormQuantizeArgs, PoolArgs, QuantizeArgs, QueryRow, ReadProbeArgs, RopeStoreArgs, RowBlock,
        Slot, SwigluArgs,
    },
    device::{Buffer, Launch},
};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng as _, SeedableRng},
};

pub(super) use library::{Library, Region, files, kernels};

use super::{
    kernels as definition,
    memory::{self, Memory, lock},
};

/// Draws for arguments; the seed is told where a comparison fails.
#[derive(Debug)]
pub(super) struct Random(Xoshiro256PlusPlus);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// 0 to `n - 1`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Whether something of one in `n` happens.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// A number of -1 to 1.
    pub(super) fn unit(&mut self) -> f32 {
        (self.0.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Numbers about as large as `scale`, a few of them zero, of either sign, or far smaller.
    pub(super) fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        let mut float = || match self.below(24) {
            0 => 0.0,
            1 => -0.0,
            2 => self.unit() * scale * 1e-6,
            _ => self.unit() * scale,
        };
        (0..n).map(|_| float()).collect()
    }

    pub(super) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.0.next_u64() as u8).collect()
    }
}

/// Memory with arrays, each an allocation of its own, for launches.
pub(super) struct Case {
    library: Option<&'static Library>,
    memory: Arc<Mutex<Memory>>,
    arrays: Vec<(&'static str, Buffer)>,
}

impl Case {
    /// None where there is neither a C++ compiler nor a GPU.
    pub(super) fn new() -> Option<Self> {
        let library = Library::get();
        if library.is_none() && gpu::gpu().is_none() {
            return None;
        }
        let memory = match library {
            Some(library) => Memory::emulated(1 << 30, library),
            None => Memory::new(1 << 30),
        };
        Some(Self {
            library,
            memory: Arc::new(Mutex::new(memory)),
            arrays: Vec::new(),
        })
    }

    /// None where there is no C++ compiler.
    pub(super) fn emulated() -> Option<Self> {
        Library::get().and_then(|_| Self::new())
    }

    /// An array of so many bytes, all `0xff`.
    pub(super) fn room(&mut self, name: &'static str, bytes: usize) -> u64 {
        let buffer = memory::alloc(&self.memory, bytes).unwrap();
        let address = buffer.address();
        self.arrays.push((name, buffer));
        address
    }

    pub(super) fn bytes(&mut self, name: &'static str, bytes: &[u8]) -> u64 {
        let address = self.room(name, bytes.len());
        let mut memory = lock(&self.memory);
        let to = memory.bytes_mut(address, bytes.len()).unwrap();
        to.copy_from_slice(bytes);
        address
    }

    pub(super) fn words(&mut self, name: &'static str, words: &[u32]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.bytes(name, &bytes)
    }

    pub(super) fn floats(&mut self, name: &'static str, floats: &[f32]) -> u64 {
        let words: Vec<u32> = floats.iter().map(|x| x.to_bits()).collect();
        self.words(name, &words)
    }

    /// An array as floats.
    pub(super) fn floats_of(&self, name: &str) -> Vec<f32> {
        let (_, b) = self.arrays.iter().find(|(n, _)| *n == name).unwrap();
        let memory = lock(&self.memory);
        memory.floats(b.address(), b.len() / 4).unwrap()
    }

    /// All arrays' bytes.
    fn all(&self) -> Vec<Vec<u8>> {
        let memory = lock(&self.memory);
        let bytes = |b: &Buffer| memory.bytes(b.address(), b.len()).unwrap().to_vec();
        self.arrays.iter().map(|(_, b)| bytes(b)).collect()
    }

    fn set(&self, all: &[Vec<u8>]) {
        let mut memory = lock(&self.memory);
        for ((_, b), bytes) in self.arrays.iter().zip(all) {
            let to = memory.bytes_mut(b.address(), b.len()).unwrap();
            to.copy_from_slice(bytes);
        }
    }

    /// Runs the kernel's source, in the order of `seed`; nothing where there is no C++ compiler.
    pub(super) fn emulate(&self, launch: &Launch, seed: u64) -> Result<(), String> {
        let _all = lock(&self.memory);
        self.library
            .map_or(Ok(()), |library| library.launch(launch, seed))
    }

    /// Runs another entry of the emulated library.
    fn emulate_entry(&self, entry: &str, launch: &Launch, seed: u64) -> Result<(), String> {
        let _all = lock(&self.memory);
        let library = self.library.expect("a case that is emulated");
        library.launch_entry(entry, launch, seed)
    }

    /// Runs the launch by definition, and as the kernel's source has it in several orders: all memory must be the same.
    /// What it is by definition stays.
    #[track_caller]
    pub(super) fn check(&self, launch: &Launch, what: &str) {
        let before = self.all();
        if let Err(illegal) = definition::run(&mut lock(&self.memory), launch) {
            panic!("{what}: by definition, {illegal}");
        }
        let want = self.all();
        let seeds: &[u64] = if self.library.is_some() {
            &[0, 1, 0x5eed]
        } else {
            &[]
        };
        for &seed in seeds {
            self.set(&before);
            if let Err(message) = self.emulate(launch, seed) {
                panic!("{what}, order {seed}: {message}");
            }
            self.compare(&self.all(), &want, &format!("{what}, order {seed}"));
        }
        if let Some(gpu) = gpu::gpu() {
            let addresses = self.arrays.iter().map(|(_, b)| b.address());
            let mut arrays: Vec<_> = addresses.zip(before).collect();
            if let Err(message) = gpu::run(&**gpu, launch, &mut arrays) {
                panic!("{what}, on the GPU: {message}");
            }
            let got: Vec<_> = arrays.into_iter().map(|(_, bytes)| bytes).collect();
            self.compare(&got, &want, &format!("{what}, on the GPU"));
        }
        self.set(&want);
    }

    #[track_caller]
    fn compare(&self, got: &[Vec<u8>], want: &[Vec<u8>], what: &str) {
        for (((name, _), got), want) in self.arrays.iter().zip(got).zip(want) {
            let Some(at) = (0..got.len()).find(|&i| got[i] != want[i]) else {
                continue;
            };
            let word = |bytes: &[u8]| {
                let mut word = [0; 4];
                for (to, byte) in word.iter_mut().zip(&bytes[at / 4 * 4..]) {
                    *to = *byte;
                }
                let bits = u32::from_le_bytes(word);
                format!("{bits:#010x} ({:e})", f32::from_bits(bits))
            };
            let differ = (0..got.len()).filter(|&i| got[i] != want[i]).count();
            panic!(
                "{what}: byte {at} of `{name}` (word {}): {}, by definition {}; {differ} of {} bytes differ",
                at / 4,
                word(got),
                word(want),
                got.len()
            );
        }
    }
}

/// C++ that holds only if a structure is the same there.
fn assertions<A: Args + Default>(to: &mut String) {
    let (name, args) = (A::NAME, A::default());
    writeln!(
        to,
        "static_assert(sizeof({name}) == {});",
        args.pack().len()
    )
    .unwrap();
    for (field, offset, bytes) in args.layout() {
        writeln!(
            to,
            "static_assert(__builtin_offsetof({name}, {field}) == {offset} && sizeof({name}::{field}) == {bytes});"
        )
        .unwrap();
    }
}

#[test]
fn arguments_are_the_same_structures_in_cpp() {
    if Library::get().is_none() {
        return;
    }
    let (cxx, flags) = library::compiler().unwrap();
    let mut source = "#include \"base.h\"\n".to_owned();
    assertions::<QueryRow>(&mut source);
    assertions::<Slot>(&mut source);
    assertions::<RowBlock>(&mut source);
    assertions::<PoolArgs>(&mut source);
    assertions::<RopeStoreArgs>(&mut source);
    assertions::<AttendArgs>(&mut source);
    assertions::<AttendMergeArgs>(&mut source);
    assertions::<AttendRowsArgs>(&mut source);
    assertions::<Codes>(&mut source);
    assertions::<NormQuantizeArgs>(&mut source);
    assertions::<QuantizeArgs>(&mut source);
    assertions::<SwigluArgs>(&mut source);
    assertions::<MatrixPart>(&mut source);
    assertions::<MatrixArgs>(&mut source);
    assertions::<ReadProbeArgs>(&mut source);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layout.cpp");
    // What does not hold must be an error, or this test could not fail.
    for (more, holds) in [("", true), ("static_assert(sizeof(Slot) == 12);\n", false)] {
        std::fs::write(&path, format!("{source}{more}")).unwrap();
        let compiled = Command::new(&cxx)
            .args(&flags)
            .arg("-fsyntax-only")
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert_eq!(compiled.status.success(), holds, "{said}");
    }
}

#[test]
fn every_kernel_has_the_parameter_that_its_arguments_are() {
    let Some(library) = Library::get() else {
        return;
    };
    for kernel in Kernel::ALL {
        if let Some(bytes) = library.args_bytes(kernel.entry()) {
            assert_eq!(bytes, args_bytes(kernel), "{}", kernel.entry());
        }
    }
}

/// Bytes of a kernel's arguments.
pub(super) fn args_bytes(kernel: Kernel) -> usize {
    fn of<A: Args + Default>() -> usize {
        A::default().pack().len()
    }
    match kernel {
        Kernel::NormQuantize => of::<NormQuantizeArgs>(),
        Kernel::Quantize => of::<QuantizeArgs>(),
        Kernel::Swiglu => of::<SwigluArgs>(),
        Kernel::RopeStore => of::<RopeStoreArgs>(),
        Kernel::Matvec(_) | Kernel::Matmul(_) | Kernel::MatrixFloat(_) => of::<MatrixArgs>(),
        Kernel::Attend(_) => of::<AttendArgs>(),
        Kernel::AttendMerge => of::<AttendMergeArgs>(),
        Kernel::AttendRows(_) => of::<AttendRowsArgs>(),
        Kernel::ReadProbe => of::<ReadProbeArgs>(),
        kernel => panic!("{kernel:?} is not known here"),
    }
}
