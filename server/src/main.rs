//! The `ringfort` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringfort::cli::main()
}
