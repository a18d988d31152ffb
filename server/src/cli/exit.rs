//! Exit codes, and the one error of the command line: every command fails through [`CliError`], so that words, JSON and
//! exit code always agree.

use std::{collections::BTreeMap, fmt, io};

use serde_json::{Value as Json, json};

/// What the process's exit code says. Scripts depend on these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed in a way that no other code names.
    Failed = 1,
    /// Bad usage or configuration.
    Usage = 2,
    /// The key does not exist.
    NotFound = 3,
    /// Too few nodes, or overload: nothing was changed.
    Unavailable = 4,
    /// The deadline passed; a write may still apply.
    Deadline = 5,
    /// Not authenticated, or not permitted.
    Authentication = 6,
    /// Several siblings where one value was asked for.
    Siblings = 7,
}

impl Exit {
    /// All codes, with what they mean, as `help exit-codes` prints them.
    pub const TABLE: &[(Exit, &str)] = &[
        (Exit::Done, "done"),
        (Exit::Failed, "failed"),
        (Exit::Usage, "bad usage or configuration"),
        (Exit::NotFound, "the key does not exist"),
        (
            Exit::Unavailable,
            "unavailable: no quorum, overload, or no node reachable; nothing was changed",
        ),
        (
            Exit::Deadline,
            "the deadline passed; a write may still apply",
        ),
        (Exit::Authentication, "not authenticated, or not permitted"),
        (
            Exit::Siblings,
            "several siblings where one value was asked for (`get` without --json)",
        ),
    ];
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq)]
pub struct CliError {
    /// The process's exit code.
    pub exit: Exit,
    /// One word for scripts: a reason of the server's table, or one of the command line's own.
    pub reason: String,
    /// A sentence for a person.
    pub message: String,
    /// Whether the same command may succeed later.
    pub retryable: bool,
    /// Whether a write may have been applied in spite of the error.
    pub ambiguous: bool,
    /// More for scripts: `node`, `retry_after_ms`, `need`, …
    pub details: BTreeMap<String, Json>,
}

impl CliError {
    /// A failure with a reason of its own.
    pub fn new(exit: Exit, reason: &str, message: impl Into<String>) -> Self {
        CliError {
            exit,
            reason: reason.to_owned(),
            message: message.into(),
            retryable: false,
            ambiguous: false,
            details: BTreeMap::new(),
        }
    }

    /// Exit 1.
    pub fn failed(message: impl Into<String>) -> Self {
        CliError::new(Exit::Failed, "FAILED", message)
    }

    /// Exit 2.
    pub fn usage(message: impl Into<String>) -> Self {
        CliError::new(Exit::Usage, "BAD_USAGE", message)
    }

    /// Exit 4, and worth another try.
    pub fn unavailable(message: impl Into<String>) -> Self {
        CliError {
            retryable: true,
            ..CliError::new(Exit::Unavailable, "UNAVAILABLE", message)
        }
    }

    /// Standard output could not be written.
    pub fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // The reader has seen enough (`export | head`): that is no failure.
            return CliError::new(Exit::Done, "BROKEN_PIPE", "");
        }
        CliError::failed(format!("cannot write to standard output: {error}"))
    }

    /// Adds one detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Json>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// `{"error": {"reason", "message", "retryable", "ambiguous", "exit_code", …}}`.
    pub fn to_json(&self) -> Json {
        let mut error = json!({
            "reason": self.reason,
            "message": self.message,
            "retryable": self.retryable,
            "ambiguous": self.ambiguous,
            "exit_code": self.exit as u8,
        });
        for (name, value) in &self.details {
            error[name] = value.clone();
        }
        json!({ "error": error })
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl From<crate::config::ConfigError> for CliError {
    fn from(error: crate::config::ConfigError) -> Self {
        CliError::new(Exit::Usage, "BAD_CONFIG", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_as_scripts_know_them() {
        let codes: Vec<u8> = Exit::TABLE.iter().map(|(exit, _)| *exit as u8).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn json_carries_reason_words_and_details() {
        let json = CliError::unavailable("no node answers")
            .with("node", "n1")
            .to_json();
        assert_eq!(json["error"]["reason"], "UNAVAILABLE");
        assert_eq!(json["error"]["retryable"], true);
        assert_eq!(json["error"]["exit_code"], 4);
        assert_eq!(json["error"]["node"], "n1");
    }
}
