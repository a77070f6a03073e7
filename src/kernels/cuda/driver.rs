//! CUDA's driver, which loads and launches kernels. It is looked up when a kernel is first needed, so that the program starts without it.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::transmute;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::Module;
use crate::kernels::libtorch::symbol;

/// A handle of the driver: a context, a module, a function or a stream. All of them may be used from any thread.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Handle(*mut c_void);

// SAFETY: the driver's handles belong to the process, not to a thread.
unsafe impl Send for Handle {}

/// The loaded functions of a module, by device and name.
pub(super) struct Functions(Mutex<BTreeMap<(usize, &'static CStr), Handle>>);

impl Functions {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

/// Whether kernels are launched: not after one could not be.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Whether there is a driver whose kernels may be launched.
pub(super) fn is_on() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    let wanted = || std::env::var_os("SEPO_CUDA_KERNELS").is_none_or(|value| value != "0");
    *WANTED.get_or_init(wanted) && !FAILED.load(Ordering::Relaxed) && driver().is_some()
}

/// Launches a kernel on the stream that LibTorch computes on. A failure is said once, and nothing is launched after it.
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
    if let Err(reason) = &launched
        && !FAILED.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(
            "libtorch:cuda:{device} does not run this program's kernels ({reason}); it computes with LibTorch's operations"
        );
    }
    launched.ok()
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
                device: transmute::<*mut c_void, _>(of_driver(c"cuDeviceGet")?),
                retain: transmute::<*mut c_void, _>(of_driver(c"cuDevicePrimaryCtxRetain")?),
                push: transmute::<*mut c_void, _>(of_driver(c"cuCtxPushCurrent_v2")?),
                pop: transmute::<*mut c_void, _>(of_driver(c"cuCtxPopCurrent_v2")?),
                load: transmute::<*mut c_void, _>(of_driver(c"cuModuleLoadData")?),
                function: transmute::<*mut c_void, _>(of_driver(c"cuModuleGetFunction")?),
                launch: transmute::<*mut c_void, Launch>(of_driver(c"cuLaunchKernel")?),
                message: transmute::<*mut c_void, _>(of_driver(c"cuGetErrorString")?),
                stream: transmute::<*mut c_void, _>(symbol(c"aoti_torch_get_current_cuda_stream")?),
                contexts: Mutex::default(),
            })
        }
    };
    FOUND.get_or_init(find).as_ref()
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
    ) -> Result<(), String> {
        let (mut stream, mut arguments) = (Handle(null_mut()), [arguments]);
        // SAFETY: the device's primary context, which LibTorch uses, is current while the kernel is launched.
        unsafe {
            let context = self.context(device)?;
            self.checked((self.push)(context))?;
            let launched = self.function(module, device, kernel).and_then(|function| {
                if (self.stream)(device as i32, &mut stream) != 0 {
                    return Err("LibTorch names no stream".into());
                }
                self.checked((self.launch)(
                    function,
                    x,
                    y,
                    1,
                    threads,
                    1,
                    1,
                    0,
                    stream,
                    arguments.as_mut_ptr(),
                    null_mut(),
                ))
            });
            self.checked((self.pop)(&mut Handle(null_mut())))?;
            launched
        }
    }

    /// The primary context of a device, which is kept for the process.
    fn context(&self, device: usize) -> Result<Handle, String> {
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
    fn function(&self, module: &Module, device: usize, kernel: &'static CStr) -> Result<Handle, String> {
        let mut kept = module.functions.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = kept.get(&(device, kernel)) {
            return Ok(*function);
        }
        let (mut loaded, mut function) = (Handle(null_mut()), Handle(null_mut()));
        // SAFETY: PTX and name are C strings; both calls write one value to where they are told.
        unsafe {
            self.checked((self.load)(&mut loaded, module.ptx.as_ptr()))?;
            self.checked((self.function)(&mut function, loaded, kernel.as_ptr()))?;
        }
        kept.insert((device, kernel), function);
        Ok(function)
    }

    fn checked(&self, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        let mut text = null();
        // SAFETY: the driver writes the address of a text of its own, or null for a code that it does not know.
        unsafe {
            (self.message)(code, &mut text);
            let text = if text.is_null() { c"unknown error" } else { CStr::from_ptr(text) };
            Err(format!("CUDA error {code}, {}", text.to_string_lossy()))
        }
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
            assert_eq!(code, 222);
            // SAFETY: the caller has room for an address.
            unsafe { *text = c"the PTX is too new".as_ptr() };
            0
        }
        unsafe extern "C" fn stream(_: i32, _: *mut Handle) -> i32 {
            call("stream")
        }
        Driver { device, retain, push, pop, load, function, launch, message, stream, contexts: Mutex::default() }
    }

    fn launched(driver: &Driver, module: &Module, device: usize) -> (Result<(), String>, Vec<&'static str>) {
        let argument = 7u64;
        // SAFETY: the driver of these tests reads one number.
        let result = unsafe { driver.launch(module, device, c"kernel", [5, 2], 64, (&raw const argument).cast()) };
        (result, CALLS.take())
    }

    #[test]
    fn a_kernel_is_loaded_once_a_device_and_launched_in_its_context() {
        let (driver, module) = (driver(), Module::new("PTX\0", "cuda.rs"));
        let once = ["device", "retain", "push", "load", "function", "stream", "launch", "pop"];
        let again = ["push", "stream", "launch", "pop"];
        for (device, want) in [(0, &once[..]), (0, &again[..]), (1, &once[..]), (0, &again[..])] {
            let (result, calls) = launched(&driver, &module, device);
            assert_eq!((result, &calls[..]), (Ok(()), want));
        }
    }

    #[test]
    fn a_driver_that_does_not_read_the_ptx_says_why_and_the_context_is_left() {
        unsafe extern "C" fn refused(_: *mut Handle, _: *const c_char) -> c_int {
            222
        }
        let (driver, module) = (Driver { load: refused, ..driver() }, Module::new("PTX\0", "cuda.rs"));
        let (result, calls) = launched(&driver, &module, 0);
        assert_eq!(result, Err("CUDA error 222, the PTX is too new".into()));
        assert_eq!(calls.last(), Some(&"pop"));
    }
}
