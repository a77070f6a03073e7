//! The `sepo` program: arguments in, exit code out.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Forward passes take and give back tensors of megabytes all the time. The system's allocator returns each of them to the
/// kernel, and clearing the pages again costs a third of the time of a pass.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    sepo::cli::main()
}
