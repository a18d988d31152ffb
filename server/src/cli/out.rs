//! What a command prints: data on standard output, words on standard error, and nothing else on either.

use std::io::{self, IsTerminal, Write};

use serde_json::Value as Json;

use super::exit::CliError;

/// Where and how a command prints.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    /// Whether `--json` was given.
    pub json: bool,
}

impl Out {
    /// Writes exactly these bytes to standard output.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub fn bytes(self, bytes: &[u8]) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(|error| CliError::output(&error))
    }

    /// Writes one line of data.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn line(self, line: &str) -> Result<(), CliError> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Writes one JSON value as a line.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn value(self, value: &Json) -> Result<(), CliError> {
        self.line(&value.to_string())
    }

    /// Prints a table for people: on standard output if that is a terminal, else on standard error.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn table(self, text: &str) -> Result<(), CliError> {
        if io::stdout().is_terminal() {
            self.bytes(text.as_bytes())
        } else {
            self.say(text.trim_end());
            Ok(())
        }
    }

    /// Says something to a person.
    pub fn say(self, words: &str) {
        // Nobody can be told that standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{words}");
    }

    /// Reports a failure: as JSON on standard output with `--json`, else in words.
    pub fn fail(self, error: &CliError) {
        if error.message.is_empty() {
            return;
        }
        if self.json {
            let _ = self.value(&error.to_json());
        } else {
            self.say(&format!("error: {error}"));
        }
    }

    /// Whether a person watches standard error: then progress may be shown.
    pub fn watched(self) -> bool {
        io::stderr().is_terminal()
    }
}

/// Whether standard error may carry colours.
pub fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Rows under a head, in columns; for people.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .chain([head[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let render = |cells: &mut dyn Iterator<Item = &str>| {
        let line: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("{}\n", line.join("  ").trim_end())
    };
    let mut text = render(&mut head.iter().copied());
    for row in rows {
        text.push_str(&render(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["n0".to_owned(), "up".to_owned()],
            vec!["longer".to_owned(), "down".to_owned()],
        ];
        assert_eq!(
            table(&["NAME", "STATE"], &rows),
            "NAME    STATE\nn0      up\nlonger  down\n"
        );
    }
}
