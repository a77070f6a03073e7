//! Kernels of this crate for CUDA devices, where several of LibTorch's operations would each read and write all numbers: one launch, one
//! pass over memory.
//!
//! A kernel is `cuda.cu` in the folder of what it computes, beside it `cuda.ptx`, which `compile.py` makes of it and the program contains,
//! and `cuda.rs`, which launches it on tensors of LibTorch. The driver compiles the PTX for the device at hand. Where a kernel does not
//! take a tensor, or the driver does not take the PTX, the body of LibTorch's operations computes instead: every function of a `cuda.rs`
//! returns `None` then. `SEPO_CUDA_KERNELS=0` turns all of them off.
//!
//! A kernel gets one argument, a struct of C, and writes to tensors that nobody else holds. Tests without a GPU compile the same source as
//! C++ and run its threads as fibers (`emulator.hpp`).

mod driver;
#[cfg(test)]
mod emulator;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, c_void};
use std::sync::Mutex;

use tch::{Device, Kind, Tensor};

/// Threads of a block, where nothing else is said.
pub(super) const THREADS: u32 = 256;
/// Threads of a warp.
pub(super) const WARP: u32 = 32;
/// The numbers that a kernel reads at a time: sizes that it takes are multiples, and addresses of their bytes.
pub(super) const VECTOR: usize = 4;

/// The kernels of a `cuda.cu`.
pub(super) struct Module {
    ptx: &'static CStr,
    /// The `cuda.rs` that launches them.
    #[cfg_attr(not(test), expect(dead_code, reason = "the emulator compiles the source"))]
    file: &'static str,
    loaded: Mutex<driver::Loaded>,
}

/// The module of the `cuda.ptx` in this file's folder.
macro_rules! module {
    () => {
        $crate::kernels::cuda::Module::new(concat!(include_str!("cuda.ptx"), "\0"), file!())
    };
}
pub(super) use module;

impl Module {
    pub(super) const fn new(ptx: &'static str, file: &'static str) -> Self {
        let Ok(ptx) = CStr::from_bytes_with_nul(ptx.as_bytes()) else { panic!("PTX is text") };
        Self { ptx, file, loaded: Mutex::new(driver::Loaded::new()) }
    }

    /// Where kernels run that read and write `tensors`; `None` where they do not run: on processors, and where a tensor is empty, does not
    /// lie in one piece, or begins where four numbers cannot be read at once.
    pub(super) fn on(&self, tensors: &[&Tensor]) -> Option<Launcher<'_>> {
        let device = tensors.first()?.device();
        let fits = |tensor: &&Tensor| {
            tensor.device() == device
                && tensor.numel() > 0
                && tensor.is_contiguous()
                && tensor.data_ptr().addr().is_multiple_of(VECTOR * tensor.kind().elt_size_in_bytes())
        };
        let place = place(device)?;
        tensors.iter().all(fits).then_some(Launcher { module: self, place })
    }
}

/// What runs kernels.
#[derive(Clone, Copy)]
enum Place {
    /// The CUDA device of this number.
    Device(usize),
    #[cfg(test)]
    Emulator(emulator::Order),
}

fn place(device: Device) -> Option<Place> {
    #[cfg(test)]
    match emulator::chosen() {
        emulator::Runs::Operations => return None,
        emulator::Runs::Kernels(order) if device == Device::Cpu => return Some(Place::Emulator(order)),
        emulator::Runs::Kernels(_) | emulator::Runs::Default => {}
    }
    match device {
        Device::Cuda(index) if driver::is_on(index) => Some(Place::Device(index)),
        _ => None,
    }
}

/// Launches kernels of a module.
pub(super) struct Launcher<'a> {
    module: &'a Module,
    place: Place,
}

impl Launcher<'_> {
    /// Launches `kernel` with `grid` blocks of `threads` threads; `None` where that failed and nothing was written. The device may be at
    /// work on it when this returns.
    ///
    /// # Safety
    /// `arguments` is the struct of `#[repr(C)]` that the kernel takes, and its pointers lead to as many numbers as the kernel reads and
    /// writes.
    pub(super) unsafe fn launch<A: Copy>(
        &self,
        kernel: &'static CStr,
        grid: [usize; 2],
        threads: u32,
        arguments: A,
    ) -> Option<()> {
        // A grid has fewer than 2^31 blocks in its first direction and 2^16 in its second.
        let (Ok(x), Ok(y)) = (i32::try_from(grid[0]), u16::try_from(grid[1])) else { return None };
        let grid = [x as u32, u32::from(y)];
        // SAFETY: as the caller promises.
        match self.place {
            Place::Device(index) => unsafe { driver::launch(self.module, index, kernel, grid, threads, &arguments) },
            #[cfg(test)]
            Place::Emulator(order) => {
                unsafe { emulator::launch(self.module, order, kernel, grid, threads, arguments) };
                Some(())
            }
        }?;
        #[cfg(test)]
        emulator::count();
        Some(())
    }
}

/// The address of the numbers of `tensor`.
pub(super) fn numbers<T>(tensor: &Tensor) -> *mut T {
    tensor.data_ptr().cast()
}

/// The address of the numbers of a tensor of any type.
pub(super) fn address(tensor: &Tensor) -> *mut c_void {
    tensor.data_ptr()
}

/// A tensor of `size` like `like` whose numbers are to be written.
pub(super) fn unwritten(size: &[i64], kind: Kind, like: &Tensor) -> Tensor {
    Tensor::empty(size, (kind, like.device()))
}
