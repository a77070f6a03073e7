//! CUDA's driver, which loads and launches kernels. It is looked up when a kernel is first needed, so that the program starts without it.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::transmute_copy;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::Module;
use crate::kernels::libtorch::symbol;

/// A handle of the driver: a context, a module, a function or a stream. All of them may be used from any thread.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Handle(*mut c_void);

// SAFETY: the driver's handles belong to the process, not to a thread.
unsafe impl Send for Handle {}

/// What devices have loaded of a module.
#[derive(Default)]
pub(super) struct Loaded {
    modules: BTreeMap<usize, Handle>,
    functions: BTreeMap<(usize, &'static CStr), Handle>,
}

impl Loaded {
    pub(super) const fn new() -> Self {
        Self { modules: BTreeMap::new(), functions: BTreeMap::new() }
    }
}

/// The devices that refused a kernel, and get none after it: a bit each.
static REFUSING: AtomicU64 = AtomicU64::new(0);

fn bit(device: usize) -> u64 {
    1u64.checked_shl(device as u32).unwrap_or_default()
}

/// Whether there is a driver that may launch kernels on a device.
pub(super) fn is_on(device: usize) -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    let wanted = || std::env::var_os("SEPO_CUDA_KERNELS").is_none_or(|value| value != "0");
    *WANTED.get_or_init(wanted) && REFUSING.load(Ordering::Relaxed) & bit(device) == 0 && driver().is_some()
}

/// Why a kernel was not launched.
#[derive(Debug, PartialEq)]
struct Refusal {
    /// Of `CUresult`; 0 where LibTorch refused.
    code: c_int,
    text: String,
}

/// `CUDA_ERROR_OUT_OF_MEMORY`: for what is loaded with a kernel. Another time there may be room.
const NO_MEMORY: c_int = 2;

/// Launches a kernel on the stream that LibTorch computes on. A device that refuses one, which is said once, gets none after it.
///
/// # Panics
/// Where the device fails in an earlier computation.
///
/// # Safety
/// As [`super::Launcher::launch`].
pub(super) unsafe fn launch<A: Copy>(
    module: &Module,
    device: usize,
    kernel: &'static CStr,
    grid: [u32; 2],
    threads: u32,
    arguments: &A,
) -> Option<()> {
    let driver = driver()?;
    // SAFETY: as the caller promises.
    let launched = unsafe { driver.launch(module, device, kernel, grid, threads, (&raw const *arguments).cast()) };
    match launched {
        Ok(()) => Some(()),
        Err(Refusal { code: NO_MEMORY, .. }) => None,
        Err(Refusal { text, .. }) => {
            if REFUSING.fetch_or(bit(device), Ordering::Relaxed) & bit(device) == 0 {
                tracing::warn!(
                    "libtorch:cuda:{device} does not run this program's kernels but LibTorch's operations: {text}"
                );
            }
            None
        }
    }
}

/// Functions of the driver (`cuda.h`) and one of LibTorch. Results are error codes, 0 for success.
struct Driver {
    device: unsafe extern "C" fn(*mut c_int, c_int) -> c_int,
    retain: unsafe extern "C" fn(*mut Handle, c_int) -> c_int,
    push: unsafe extern "C" fn(Handle) -> c_int,
    pop: unsafe extern "C" fn(*mut Handle) -> c_int,
    load: unsafe extern "C" fn(*mut Handle, *const c_char) -> c_int,
    function: unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> c_int,
    launch: Launch,
    message: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
    /// `aoti_torch_get_current_cuda_stream` of a device.
    stream: unsafe extern "C" fn(i32, *mut Handle) -> i32,
    /// The primary contexts of devices.
    contexts: Mutex<BTreeMap<usize, Handle>>,
}

/// `cuLaunchKernel`: function; blocks in three directions; threads in three; bytes of shared memory; stream; arguments; options.
type Launch = unsafe extern "C" fn(
    Handle,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    Handle,
    *mut *const c_void,
    *mut *mut c_void,
) -> c_int;

/// The driver, where a LibTorch with CUDA has loaded it.
fn driver() -> Option<&'static Driver> {
    static FOUND: OnceLock<Option<Driver>> = OnceLock::new();
    let find = || {
        // SAFETY: the name is a C string; a library that CUDA's runtime has loaded is not loaded again.
        let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            return None;
        }
        let of_driver = |name: &CStr| {
            // SAFETY: the library was opened, and is never closed.
            let address = unsafe { libc::dlsym(library, name.as_ptr()) };
            (!address.is_null()).then_some(address)
        };
        // SAFETY: these are the signatures of `cuda.h` since CUDA 4.0 and of LibTorch's `c_shim.h` of CUDA.
        unsafe {
            Some(Driver {
                device: function_at(of_driver(c"cuDeviceGet")?),
                retain: function_at(of_driver(c"cuDevicePrimaryCtxRetain")?),
                push: function_at(of_driver(c"cuCtxPushCurrent_v2")?),
                pop: function_at(of_driver(c"cuCtxPopCurrent_v2")?),
                load: function_at(of_driver(c"cuModuleLoadData")?),
                function: function_at(of_driver(c"cuModuleGetFunction")?),
                launch: function_at(of_driver(c"cuLaunchKernel")?),
                message: function_at(of_driver(c"cuGetErrorString")?),
                stream: function_at(symbol(c"aoti_torch_get_current_cuda_stream")?),
                contexts: Mutex::default(),
            })
        }
    };
    FOUND.get_or_init(find).as_ref()
}

/// The function at `address`.
///
/// # Safety
/// It has the type `F`.
unsafe fn function_at<F: Copy>(address: *mut c_void) -> F {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: both are addresses, and the caller knows the type.
    unsafe { transmute_copy(&address) }
}

impl Driver {
    /// # Safety
    /// As [`super::Launcher::launch`].
    unsafe fn launch(
        &self,
        module: &Module,
        device: usize,
        kernel: &'static CStr,
        [x, y]: [u32; 2],
        threads: u32,
        arguments: *const c_void,
    ) -> Result<(), Refusal> {
        let (mut stream, mut arguments) = (Handle(null_mut()), [arguments]);
        // SAFETY: the device's primary context, which LibTorch uses, is current while the kernel is launched.
        unsafe {
            let context = self.context(device)?;
            self.checked((self.push)(context))?;
            let launched = self.function(module, device, kernel).and_then(|function| {
                if (self.stream)(device as i32, &mut stream) != 0 {
                    return Err(Refusal { code: 0, text: "LibTorch names no stream".into() });
                }
                let (arguments, no_options) = (arguments.as_mut_ptr(), null_mut());
                self.checked((self.launch)(function, x, y, 1, threads, 1, 1, 0, stream, arguments, no_options))
            });
            if let Err(Refusal { text, .. }) = self.checked((self.pop)(&mut Handle(null_mut()))) {
                panic!("the device failed in an earlier computation: {text}");
            }
            launched
        }
    }

    /// The primary context of a device, which is kept for the process.
    fn context(&self, device: usize) -> Result<Handle, Refusal> {
        let mut kept = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = kept.get(&device) {
            return Ok(*context);
        }
        let (mut number, mut context) = (0, Handle(null_mut()));
        // SAFETY: both write one value to where they are told.
        unsafe {
            self.checked((self.device)(&mut number, device as c_int))?;
            self.checked((self.retain)(&mut context, number))?;
        }
        kept.insert(device, context);
        Ok(context)
    }

    /// A function of `module` in the current context, that of `device`.
    fn function(&self, module: &Module, device: usize, kernel: &'static CStr) -> Result<Handle, Refusal> {
        let mut loaded = module.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let Loaded { modules, functions } = &mut *loaded;
        if let Some(function) = functions.get(&(device, kernel)) {
            return Ok(*function);
        }
        // SAFETY: PTX and name are C strings; both calls write one value to where they are told.
        unsafe {
            let code = match modules.get(&device) {
                Some(code) => *code,
                None => {
                    let mut code = Handle(null_mut());
                    self.checked((self.load)(&mut code, module.ptx.as_ptr()))?;
                    *modules.entry(device).or_insert(code)
                }
            };
            let mut function = Handle(null_mut());
            self.checked((self.function)(&mut function, code, kernel.as_ptr()))?;
            Ok(*functions.entry((device, kernel)).or_insert(function))
        }
    }

    /// # Panics
    /// For codes by which a device reports what failed before (`cuda.h`): an address, a time limit, an instruction, an assertion.
    fn checked(&self, code: c_int) -> Result<(), Refusal> {
        if code == 0 {
            return Ok(());
        }
        let mut text = null();
        // SAFETY: the driver writes the address of a text of its own, or null for a code that it does not know.
        let text = unsafe {
            (self.message)(code, &mut text);
            if text.is_null() { c"unknown error" } else { CStr::from_ptr(text) }
        };
        let text = format!("CUDA error {code}, {}", text.to_string_lossy());
        assert!(!matches!(code, 700 | 702 | 710 | 713..=719), "the device failed in an earlier computation: {text}");
        Err(Refusal { code, text })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        /// The calls of the driver below.
        static CALLS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    fn call(name: &'static str) -> c_int {
        CALLS.with_borrow_mut(|calls| calls.push(name));
        0
    }

    /// A driver that launches nothing and writes down what it is asked for.
    fn driver() -> Driver {
        unsafe extern "C" fn device(_: *mut c_int, _: c_int) -> c_int {
            call("device")
        }
        unsafe extern "C" fn retain(_: *mut Handle, _: c_int) -> c_int {
            call("retain")
        }
        unsafe extern "C" fn push(_: Handle) -> c_int {
            call("push")
        }
        unsafe extern "C" fn pop(_: *mut Handle) -> c_int {
            call("pop")
        }
        unsafe extern "C" fn load(_: *mut Handle, _: *const c_char) -> c_int {
            call("load")
        }
        unsafe extern "C" fn function(_: *mut Handle, _: Handle, _: *const c_char) -> c_int {
            call("function")
        }
        unsafe extern "C" fn launch(
            _: Handle,
            x: c_uint,
            y: c_uint,
            z: c_uint,
            threads: c_uint,
            _: c_uint,
            _: c_uint,
            shared: c_uint,
            _: Handle,
            arguments: *mut *const c_void,
            _: *mut *mut c_void,
        ) -> c_int {
            assert_eq!([x, y, z, threads, shared], [5, 2, 1, 64, 0]);
            // SAFETY: the test's argument is a number.
            assert_eq!(unsafe { *(*arguments).cast::<u64>() }, 7);
            call("launch")
        }
        unsafe extern "C" fn message(code: c_int, text: *mut *const c_char) -> c_int {
            let message = if code == 222 { c"the PTX is too new" } else { c"an illegal address" };
            // SAFETY: the caller has room for an address.
            unsafe { *text = message.as_ptr() };
            0
        }
        unsafe extern "C" fn stream(_: i32, _: *mut Handle) -> i32 {
            call("stream")
        }
        Driver { device, retain, push, pop, load, function, launch, message, stream, contexts: Mutex::default() }
    }

    fn launched(
        driver: &Driver,
        module: &Module,
        device: usize,
        kernel: &'static CStr,
    ) -> (Result<(), Refusal>, Vec<&'static str>) {
        let argument = 7u64;
        // SAFETY: the driver of these tests reads one number.
        let result = unsafe { driver.launch(module, device, kernel, [5, 2], 64, (&raw const argument).cast()) };
        (result, CALLS.take())
    }

    #[test]
    fn a_kernel_is_loaded_once_a_device_and_launched_in_its_context() {
        let (driver, module) = (driver(), Module::new("PTX\0", "cuda.rs"));
        let once = ["device", "retain", "push", "load", "function", "stream", "launch", "pop"];
        let again = ["push", "stream", "launch", "pop"];
        let other = ["push", "function", "stream", "launch", "pop"];
        let calls = [
            (0, c"kernel", &once[..]),
            (0, c"kernel", &again[..]),
            (0, c"other", &other[..]),
            (1, c"kernel", &once[..]),
            (0, c"other", &again[..]),
        ];
        for (device, kernel, want) in calls {
            let (result, calls) = launched(&driver, &module, device, kernel);
            assert_eq!((result, &calls[..]), (Ok(()), want));
        }
    }

    #[test]
    fn a_driver_that_does_not_read_the_ptx_says_why_and_the_context_is_left() {
        unsafe extern "C" fn refused(_: *mut Handle, _: *const c_char) -> c_int {
            222
        }
        let (driver, module) = (Driver { load: refused, ..driver() }, Module::new("PTX\0", "cuda.rs"));
        let (result, calls) = launched(&driver, &module, 0, c"kernel");
        assert_eq!(result, Err(Refusal { code: 222, text: "CUDA error 222, the PTX is too new".into() }));
        assert_eq!(calls.last(), Some(&"pop"));
    }

    #[test]
    #[should_panic(expected = "the device failed in an earlier computation: CUDA error 700")]
    fn a_device_that_failed_before_is_not_taken_for_one_that_refuses() {
        unsafe extern "C" fn failed(_: *mut Handle) -> c_int {
            700
        }
        let (driver, module) = (Driver { pop: failed, ..driver() }, Module::new("PTX\0", "cuda.rs"));
        drop(launched(&driver, &module, 0, c"kernel"));
    }
}
