//! The `sepo` program: arguments in, exit code out.

use std::process::ExitCode;

use libmimalloc_sys::{mi_option_set_default, mi_option_t};
use mimalloc::MiMalloc;

/// Forward passes take and give back tensors of megabytes all the time. The system's allocator returns each of them to the
/// kernel, and clearing the pages again costs a third of the time of a pass.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// mimalloc's own delay before it returns memory is shorter than a pass and costs a sixth of a training step. The next pass
/// takes what this one gave back. A server has no passes: streams come and go, and it has to stay small.
fn keep_freed_memory() {
    const PURGE_DELAY: mi_option_t = 15;
    const NEVER: std::ffi::c_long = -1;
    // SAFETY: sets a number; `MIMALLOC_PURGE_DELAY` in the environment goes before it.
    unsafe { mi_option_set_default(PURGE_DELAY, NEVER) };
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_none_or(|command| command != "serve") {
        keep_freed_memory();
    }
    sepo::cli::main()
}
