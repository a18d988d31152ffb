//! `serve --check-config`: every value with its source, as a file that `--config` reads, or as JSON.

use super::Config;

impl Config {
    /// The configuration as TOML, each line with its source behind it.
    pub fn report_toml(&self) -> String {
        let lines: Vec<(String, String)> = self
            .values()
            .into_iter()
            // A basic string, an array of them, a number and a boolean are spelled alike in JSON and TOML.
            .map(|(name, value, source)| (format!("{name} = {value}"), source.to_string()))
            .collect();
        let width = lines
            .iter()
            .map(|(line, _)| line.chars().count())
            .filter(|width| *width <= MAX_COLUMN)
            .max()
            .unwrap_or(0);
        lines
            .iter()
            .map(|(line, source)| format!("{line:width$}  # {source}\n"))
            .collect()
    }

    /// The configuration as one JSON object: name → `{"value", "source"}`.
    pub fn report_json(&self) -> serde_json::Value {
        self.values()
            .into_iter()
            .map(|(name, value, source)| {
                let entry = serde_json::json!({"value": value, "source": source.to_string()});
                (name.to_owned(), entry)
            })
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

/// Sources line up behind lines no longer than this, in characters.
const MAX_COLUMN: usize = 50;
