//! Runs kernels on the host, for tests: their source compiled as C++ after `emulator.hpp`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_void};
use std::mem::transmute;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use super::Module;

/// The order in which the threads of a block take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Ascending,
    Descending,
}

/// What computes in a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    /// What would without a test.
    Default,
    /// LibTorch's operations, on every device.
    Operations,
    /// Kernels: on a processor by the emulator.
    Kernels(Order),
}

thread_local! {
    static CHOSEN: Cell<Runs> = const { Cell::new(Runs::Default) };
    static LAUNCHES: Cell<usize> = const { Cell::new(0) };
}

pub(super) fn chosen() -> Runs {
    CHOSEN.get()
}

/// Counts a launch of this thread.
pub(super) fn count() {
    LAUNCHES.set(LAUNCHES.get() + 1);
}

/// What `work` computes, and how many kernels were launched.
pub(super) fn with<T>(runs: Runs, work: impl FnOnce() -> T) -> (T, usize) {
    let before = CHOSEN.replace(runs);
    LAUNCHES.set(0);
    let result = work();
    CHOSEN.set(before);
    (result, LAUNCHES.get())
}

/// # Safety
/// As [`super::Launcher::launch`].
pub(super) unsafe fn launch<A: Copy>(
    module: &Module,
    order: Order,
    kernel: &CStr,
    [x, y]: [u32; 2],
    threads: u32,
    arguments: A,
) {
    type Emulate = extern "C" fn(u32, u32, u32, bool, extern "C" fn(*const c_void), *const c_void);
    extern "C" fn call<A: Copy>(closure: *const c_void) {
        // SAFETY: the address is that of `closure` below.
        let (kernel, arguments) = unsafe { &*closure.cast::<(extern "C" fn(A), A)>() };
        kernel(*arguments);
    }
    let library = library(module.file);
    let address = |name: &CStr| {
        // SAFETY: the library is open for as long as the process lives.
        let address = unsafe { libc::dlsym(library as *mut c_void, name.as_ptr()) };
        assert!(!address.is_null(), "{} has no {name:?}", module.file);
        address
    };
    // SAFETY: the signatures are those of emulator.hpp and, as the caller promises, of the kernel.
    let (emulate, kernel) = unsafe {
        let kernel = transmute::<*mut c_void, extern "C" fn(A)>(address(kernel));
        (transmute::<*mut c_void, Emulate>(address(c"emulate")), kernel)
    };
    let closure = (kernel, arguments);
    emulate(x, y, threads, order == Order::Descending, call::<A>, (&raw const closure).cast());
}

/// The library of the source beside `file`, compiled once a process.
fn library(file: &'static str) -> usize {
    static LIBRARIES: Mutex<BTreeMap<&'static str, usize>> = Mutex::new(BTreeMap::new());
    *LIBRARIES.lock().unwrap().entry(file).or_insert_with(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(file).with_extension("cu");
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels/cuda");
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("kernels.so");
        let mut compiler = Command::new("c++");
        compiler.args(["-x", "c++", "-std=c++17", "-O1", "-fPIC", "-shared", "-include", "emulator.hpp"]);
        compiler.arg("-I").arg(shared).arg(source).arg("-o").arg(&library);
        let done = compiler.output().expect("a C++ compiler, as for LibTorch");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let path = CString::new(library.to_str().unwrap()).unwrap();
        // SAFETY: the library has no constructors but those of the standard library.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null(), "{file}");
        handle as usize
    })
}
