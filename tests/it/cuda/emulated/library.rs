//! The kernels' own source, compiled by the C++ compiler over the emulation of `emulator/`, and called.
//!
//! It is compiled when a test first asks for it, so that a kernel can be changed and tested without building any Rust.

#![allow(unsafe_code)]

use std::{
    env,
    ffi::{CStr, CString, c_char, c_int, c_uint, c_ulonglong, c_void},
    fs,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::Command,
    ptr::NonNull,
    sync::OnceLock,
};

use chaski::backend::cuda::{args::MAX_SHARED, device::Launch};
use sha2::{Digest, Sha256};

type Alloc = unsafe extern "C" fn(usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type ArgsBytes = unsafe extern "C" fn(*const c_char) -> usize;
type Run = unsafe extern "C" fn(
    *const c_char,
    *const c_void,
    *const c_uint,
    c_uint,
    c_uint,
    c_ulonglong,
    *mut c_char,
    usize,
) -> c_int;

/// The library; never closed.
#[derive(Debug)]
pub(in super::super) struct Library {
    alloc: Alloc,
    free: Free,
    args_bytes: ArgsBytes,
    launch: Run,
}

/// Memory that kernels may be pointed to: 256-byte aligned, nothing accessible right behind it, filled with `0xff` at first.
#[derive(Debug)]
pub(in super::super) struct Region {
    library: &'static Library,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a region owns its memory, as a `Vec<u8>` does; the library's functions may be called on any thread.
unsafe impl Send for Region {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Region {}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the library gave `len` initialised bytes at `start`, which are this region's until it is dropped. Kernels
        // write to them only within `Library::launch`, whose caller holds no reference into them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `self` is borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `start` is what `alloc` gave, and nothing refers to it any more.
        unsafe { (self.library.free)(self.start.as_ptr().cast()) }
    }
}

impl Region {
    pub(in super::super) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }
}

impl Library {
    /// The library, or nothing and a line that says why.
    #[expect(clippy::print_stdout, reason = "what is not tested is to be seen")]
    pub(in super::super) fn get() -> Option<&'static Self> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        match LIBRARY.get_or_init(|| compiled().map(|path| Self::open(&path))) {
            Ok(library) => Some(library),
            Err(why) => {
                assert!(
                    env::var_os("CHASKI_EXPECT_CXX").is_none(),
                    "CHASKI_EXPECT_CXX is set, but {why}"
                );
                println!("skipped: kernels over the emulation: {why}");
                None
            }
        }
    }

    fn open(path: &Path) -> Self {
        // SAFETY: the library was just made of our own source; what it does when it is opened is to list its kernels.
        let library = unsafe { libloading::Library::new(path) }.unwrap();
        // Never closed: its functions are called until the process ends.
        let library = Box::leak(Box::new(library));
        // SAFETY: each type is that of the function in `emulator.cpp`.
        unsafe {
            Self {
                alloc: *library.get(b"chaski_emulated_alloc").unwrap(),
                free: *library.get(b"chaski_emulated_free").unwrap(),
                args_bytes: *library.get(b"chaski_emulated_args_bytes").unwrap(),
                launch: *library.get(b"chaski_emulated_launch").unwrap(),
            }
        }
    }

    /// New memory.
    pub(in super::super) fn alloc(&'static self, len: usize) -> Option<Region> {
        // SAFETY: any number of bytes may be asked for.
        let start = unsafe { (self.alloc)(len) };
        NonNull::new(start.cast()).map(|start| Region {
            library: self,
            start,
            len,
        })
    }

    /// Bytes of an entry's parameter, if there is such a kernel.
    pub(in super::super) fn args_bytes(&self, entry: &str) -> Option<usize> {
        let entry = CString::new(entry).unwrap();
        // SAFETY: a string that ends with a zero.
        match unsafe { (self.args_bytes)(entry.as_ptr()) } {
            0 => None,
            bytes => Some(bytes),
        }
    }

    /// Runs a launch. The same seed gives the same order of warps and lanes; with 0 it is theirs by number.
    ///
    /// What the arguments point to may be written, so the caller holds all regions exclusively.
    pub(in super::super) fn launch(&self, launch: &Launch, seed: u64) -> Result<(), String> {
        self.launch_entry(launch.kernel.entry(), launch, seed)
    }

    /// The same for an entry that is none of [`Kernel`](chaski::backend::cuda::args::Kernel)'s.
    pub(in super::super) fn launch_entry(
        &self,
        entry: &str,
        launch: &Launch,
        seed: u64,
    ) -> Result<(), String> {
        let shape = launch.shape;
        if self.args_bytes(entry) != Some(launch.args.len()) {
            return Err(format!(
                "`{entry}` takes {:?} bytes, not {}",
                self.args_bytes(entry),
                launch.args.len()
            ));
        }
        assert!(shape.shared <= MAX_SHARED, "{entry}: {shape:?}");
        let name = CString::new(entry).unwrap();
        let mut message = [0; 1024];
        // SAFETY: the entry takes as many bytes as there are (checked); `message` has the length that is said. A kernel that
        // accesses what is none of a region's faults, which the library turns into an error.
        let failed = unsafe {
            (self.launch)(
                name.as_ptr(),
                launch.args.words().as_ptr().cast(),
                shape.grid.as_ptr(),
                shape.threads,
                shape.shared,
                seed,
                message.as_mut_ptr(),
                message.len(),
            )
        };
        if failed == 0 {
            return Ok(());
        }
        // SAFETY: a failed launch left a string that ends with a zero.
        let message = unsafe { CStr::from_ptr(message.as_ptr()) };
        Err(format!("{entry}: {}", message.to_string_lossy()))
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Where the kernels are.
pub(in super::super) fn kernels() -> PathBuf {
    folder("src/backend/cuda/kernels")
}

/// Where the emulation is.
fn emulator() -> PathBuf {
    folder("tests/it/cuda/emulator")
}

/// The files of a folder that end so, in order.
pub(in super::super) fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}

/// The compiler, with all but what is compiled. Contraction is off, as in the PTX; what the language does not define traps.
pub(in super::super) fn compiler() -> Result<(String, Vec<String>), String> {
    if !cfg!(target_os = "linux") || env::var_os("CHASKI_TEST_BRIEF").is_some() {
        return Err("it is for the whole tests on Linux".to_owned());
    }
    if env::var_os("CHASKI_SIMD").is_some() {
        return Err("CHASKI_SIMD is set, which the kernels do not depend on".to_owned());
    }
    let cxx = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let machine = Command::new(&cxx).arg("-dumpmachine").output();
    let machine = machine.map_err(|error| format!("no C++ compiler (`{cxx}`: {error})"))?;
    let machine = String::from_utf8_lossy(&machine.stdout).into_owned();
    if !machine.starts_with(env::consts::ARCH) {
        let machine = machine.trim();
        return Err(format!("the C++ compiler is for {machine}"));
    }
    let mut flags: Vec<String> = [
        "-std=c++17",
        "-O1",
        "-g1",
        "-fPIC",
        "-fvisibility=default",
        "-ffp-contract=off",
        "-fno-strict-aliasing",
        "-fsanitize=alignment,bounds,shift",
        "-fsanitize-undefined-trap-on-error",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-Wno-unused-parameter",
        "-DCHASKI_EMULATE",
    ]
    .map(str::to_owned)
    .into();
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        flags.push("-mfma".to_owned());
    }
    for folder in [kernels(), emulator()] {
        flags.push(format!("-I{}", folder.display()));
    }
    Ok((cxx, flags))
}

/// The library's path; compiles what has changed.
fn compiled() -> Result<PathBuf, String> {
    let (cxx, flags) = compiler()?;
    let mut common = Sha256::new();
    common.update(format!("{cxx} {flags:?}"));
    for header in [kernels(), emulator()].iter().flat_map(|f| files(f, "h")) {
        common.update(fs::read(header).unwrap());
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated");
    fs::create_dir_all(&out).unwrap();
    let mut library = common.clone();
    let (mut objects, mut running) = (Vec::new(), Vec::new());
    let sources = [files(&emulator(), "cpp"), files(&kernels(), "cu")].concat();
    for source in sources {
        let mut key = common.clone();
        key.update(source.file_name().unwrap().as_encoded_bytes());
        key.update(fs::read(&source).unwrap());
        let key = hex(key);
        library.update(&key);
        let object = out.join(format!("{key}.o"));
        if !object.exists() {
            let mut command = Command::new(&cxx);
            command.args(&flags).args(["-x", "c++", "-c", "-o"]);
            running.push(Step::start(&mut command, &[&source], &object));
        }
        objects.push(object);
    }
    running.into_iter().for_each(Step::finish);
    let library = out.join(format!("{}.so", hex(library)));
    if !library.exists() {
        let mut command = Command::new(&cxx);
        command.args(["-shared", "-o"]);
        let objects: Vec<_> = objects.iter().map(PathBuf::as_path).collect();
        Step::start(&mut command, &objects, &library).finish();
    }
    Ok(library)
}

fn hex(hash: Sha256) -> String {
    let digest = hash.finalize();
    digest[..12].iter().map(|b| format!("{b:02x}")).collect()
}

/// A command whose result gets its name when it is whole, since tests of several processes may make it at once.
struct Step {
    child: std::process::Child,
    made: PathBuf,
    wanted: PathBuf,
}

impl Step {
    fn start(command: &mut Command, from: &[&Path], to: &Path) -> Self {
        let made = to.with_extension(std::process::id().to_string());
        Self {
            child: command.arg(&made).args(from).spawn().unwrap(),
            made,
            wanted: to.to_owned(),
        }
    }

    fn finish(mut self) {
        assert!(
            self.child.wait().unwrap().success(),
            "what the compiler says is above"
        );
        fs::rename(self.made, self.wanted).unwrap();
    }
}
