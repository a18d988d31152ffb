//! The key of a command: text or hexadecimal, in a namespace.

use super::{encoding, exit::CliError};

/// A key, as every command takes it.
#[derive(Debug, Clone, clap::Args)]
pub struct KeyArg {
    /// The key
    #[arg(value_name = "KEY", allow_negative_numbers = true)]
    key: String,
    /// The key is written in hexadecimal
    #[arg(long)]
    hex: bool,
    /// The namespace of the key
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub namespace: String,
}

impl KeyArg {
    /// The key's bytes.
    ///
    /// # Errors
    /// The key is empty, or not hexadecimal with `--hex`.
    pub fn bytes(&self) -> Result<Vec<u8>, CliError> {
        let bytes = if self.hex {
            encoding::unhex(&self.key).map_err(|what| CliError::usage(format!("the key {what}")))?
        } else {
            self.key.clone().into_bytes()
        };
        if bytes.is_empty() {
            return Err(CliError::usage("the key is empty"));
        }
        Ok(bytes)
    }
}
