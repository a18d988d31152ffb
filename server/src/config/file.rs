//! The configuration file: flat TOML, one field per setting, named as the flag with `_` for `-`. Each problem names file
//! and line; an unknown field also the nearest name that exists.

use std::{collections::BTreeMap, ops::Range, path::Path};

use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// A field of the file: its value as text, and the line that it stands on (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    /// The value, as a flag would spell it.
    pub text: String,
    /// Where it stands.
    pub line: usize,
}

/// Reads all fields of `text`, which came from `path`. `known` are the settings' names.
///
/// # Errors
/// The first thing wrong with the file, with file and line.
pub(super) fn read(
    path: &Path,
    text: &str,
    known: &[&'static str],
) -> Result<BTreeMap<&'static str, Field>, ConfigError> {
    let at = |span: Range<usize>| line_of(text, span.start);
    let fail =
        |line: usize, what: String| ConfigError::new(format!("{}:{line}: {what}", path.display()));
    let table = DeTable::parse(text).map_err(|error| {
        fail(
            error.span().map_or(1, at),
            format!("not valid TOML: {}", error.message()),
        )
    })?;
    let mut fields = BTreeMap::new();
    for (name, value) in table.get_ref() {
        let line = at(name.span());
        let name = name.get_ref().as_ref();
        let Some(&known_name) = known.iter().find(|k| **k == name) else {
            return Err(fail(line, unknown(name, known)));
        };
        let text = as_text(value.get_ref())
            .ok_or_else(|| fail(line, format!("`{name}` has a value of the wrong kind")))?;
        fields.insert(known_name, Field { text, line });
    }
    Ok(fields)
}

fn unknown(name: &str, known: &[&'static str]) -> String {
    let hint = nearest(name, known.iter().copied());
    match hint {
        Some(hint) => format!("unknown field `{name}`; did you mean `{hint}`?"),
        None => format!("unknown field `{name}`"),
    }
}

fn as_text(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Array(items) => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.as_ref()),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()?
            .join(","),
        DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}

fn line_of(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    text.as_bytes()[..end]
        .iter()
        .filter(|b| **b == b'\n')
        .count()
        + 1
}

/// The name nearest to `name` by edit distance, if one is near enough to be what was meant.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = name.len().div_ceil(3).max(2);
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, over bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["client_addr", "peer_addr", "capacity", "seeds"];

    fn message(text: &str) -> String {
        read(Path::new("node.toml"), text, KNOWN)
            .expect_err(text)
            .to_string()
    }

    #[test]
    fn fields_come_with_their_lines() {
        let text = "# a node\ncapacity = 2\n\nseeds = [\"a:1\", \"b:2\"]\n";
        let fields = read(Path::new("node.toml"), text, KNOWN).expect("valid");
        let field = |name: &str| fields.get(name).cloned();
        assert_eq!(
            field("capacity"),
            Some(Field {
                text: "2".into(),
                line: 2
            })
        );
        assert_eq!(
            field("seeds"),
            Some(Field {
                text: "a:1,b:2".into(),
                line: 4
            })
        );
    }

    #[test]
    fn an_unknown_field_names_line_and_neighbour() {
        assert_eq!(
            message("capacity = 1\nclient_adr = \"x:1\"\n"),
            "node.toml:2: unknown field `client_adr`; did you mean `client_addr`?"
        );
        assert_eq!(
            message("colour = 1\n"),
            "node.toml:1: unknown field `colour`"
        );
    }

    #[test]
    fn broken_toml_and_wrong_kinds_name_the_line() {
        assert!(message("capacity = 1\npeer_addr = \n").starts_with("node.toml:2: not valid TOML"));
        assert_eq!(
            message("[seeds]\nx = 1\n"),
            "node.toml:1: `seeds` has a value of the wrong kind"
        );
    }
}
