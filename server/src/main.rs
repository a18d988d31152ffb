//! The `ringfort` binary.

use std::process::ExitCode;

// The tests build this file once more, under another name.
const _: () = assert!(
    !(ringfort_storage::mutants::CAN_PLANT
        && matches!(env!("CARGO_BIN_NAME").as_bytes(), b"ringfort")),
    "the feature `mutants` is for the simulation alone: build this binary without it"
);

fn main() -> ExitCode {
    ringfort::cli::main()
}
