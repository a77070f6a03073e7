//! The `sepo` program: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    sepo::cli::main()
}
