//! The `ringfort` binary.

use std::process::ExitCode;

const _: () = assert!(
    !ringfort_storage::mutants::CAN_PLANT,
    "the feature `mutants` is for the simulation alone: build this binary without it"
);

fn main() -> ExitCode {
    ringfort::cli::main()
}
