//! LibTorch's hook for profilers, `at::addGlobalCallback` of `ATen/record_function.h`, of which tch has no binding.

use std::ffi::{CStr, c_char, c_void};
use std::mem::transmute;

/// Who is told of operations, on the thread that calls them. An operation may call others before it ends.
pub(crate) trait Listener: 'static {
    /// The operation `name`, such as `aten::mm`, begins.
    fn start(name: &str);
    /// The operation that began last, and has not ended, ends.
    fn end();
}

/// `at::RecordFunctionCallback`; C++ passes it as C does, for it is trivially copyable.
#[repr(C)]
#[derive(Clone, Copy)]
struct Callback {
    start: extern "C" fn(*mut *mut c_void, *const c_void) -> *mut *mut c_void,
    end: extern "C" fn(*const c_void, *mut c_void),
    probability: f64,
    scopes: [bool; 10],
    needs: [bool; 3],
}

/// The address of a function of the libraries that are loaded, if there is one of this name.
pub(crate) fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name is a C string.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// A start callback returns a `std::unique_ptr`, which the caller has made room for.
extern "C" fn start<L: Listener>(context: *mut *mut c_void, function: *const c_void) -> *mut *mut c_void {
    // SAFETY: `const char* RecordFunction::name() const`; the context is the caller's and may be null.
    let name = unsafe {
        *context = std::ptr::null_mut();
        let name = symbol(c"_ZNK2at14RecordFunction4nameEv").expect("LibTorch has its hook");
        let name = transmute::<*mut c_void, extern "C" fn(*const c_void) -> *const c_char>(name);
        CStr::from_ptr(name(function)).to_string_lossy()
    };
    L::start(&name);
    context
}

extern "C" fn end<L: Listener>(_: *const c_void, _: *mut c_void) {
    L::end();
}

/// Tells `L` of all operations from now on.
pub(crate) fn listen<L: Listener>() {
    let callback =
        Callback { start: start::<L>, end: end::<L>, probability: 1.0, scopes: [true; 10], needs: [false; 3] };
    let add = symbol(c"_ZN2at17addGlobalCallbackENS_22RecordFunctionCallbackE").expect("LibTorch has its hook");
    // SAFETY: `CallbackHandle addGlobalCallback(RecordFunctionCallback)`.
    unsafe { transmute::<*mut c_void, extern "C" fn(Callback) -> u64>(add)(callback) };
}
