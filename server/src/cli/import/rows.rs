//! The rows of a data file: how a line becomes a key and a value.

use std::io::{self, BufRead, Read};

use clap::ValueEnum;

/// How a file is cut into rows. A row is a line; a carriage return at its end is no part of it, and empty lines are
/// skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The value is the whole line; the key is one of its fields, by default the text up to the first separator
    Lines,
    /// The key is one field, the value the others with the separator between them
    Tsv,
    /// The value is the line, a JSON object; the key is one of its members
    Jsonl,
}

/// How lines are read.
#[derive(Debug, Clone)]
pub struct Shape {
    /// See [`Format`].
    pub format: Format,
    /// What stands between fields.
    pub separator: Vec<u8>,
    /// Number of the key's field, from 0; for JSON, the name of its member.
    pub key_field: String,
}

/// A line that became a row, or why it did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Number of the line, from 1.
    pub line: u64,
    /// Where the next line begins in the file.
    pub end: u64,
    /// Key and value.
    pub pair: Result<(Vec<u8>, Vec<u8>), String>,
}

/// A longer line is a failed row, in bytes: no node takes such a value.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// Namespace and key together, in bytes: what a node takes.
const MAX_KEY_BYTES: usize = 400;

impl Shape {
    /// Checks the parts against each other.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn new(format: Format, separator: &str, key_field: Option<&str>) -> Result<Self, String> {
        let separator = separator.replace("\\t", "\t").into_bytes();
        if separator.is_empty() {
            return Err("the separator is empty".to_owned());
        }
        let key_field = match (format, key_field) {
            (Format::Jsonl, name) => name.unwrap_or("key").to_owned(),
            (_, None) => "0".to_owned(),
            (_, Some(number)) => number
                .parse::<usize>()
                .map(|n| n.to_string())
                .map_err(|_| format!("the key's field is a number from 0, not `{number}`"))?,
        };
        Ok(Shape {
            format,
            separator,
            key_field,
        })
    }

    fn pair(&self, line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
        let (key, value) = match self.format {
            Format::Jsonl => (self.member(line)?, line.to_vec()),
            Format::Lines => (self.fields(line)?.0, line.to_vec()),
            Format::Tsv => self.fields(line)?,
        };
        if key.is_empty() {
            return Err("the key is empty".to_owned());
        }
        if key.len() > MAX_KEY_BYTES {
            return Err(format!("the key is longer than {MAX_KEY_BYTES} bytes"));
        }
        Ok((key, value))
    }

    /// The key's field, and the others joined again.
    fn fields(&self, line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
        let wanted: usize = self.key_field.parse().map_err(|_| "no field number")?;
        let mut key = None;
        let mut rest: Vec<&[u8]> = Vec::new();
        for (number, field) in split(line, &self.separator).enumerate() {
            if number == wanted {
                key = Some(field.to_vec());
            } else {
                rest.push(field);
            }
        }
        let key = key.ok_or_else(|| format!("there is no field {wanted}"))?;
        Ok((key, rest.join(&self.separator[..])))
    }

    fn member(&self, line: &[u8]) -> Result<Vec<u8>, String> {
        let json: serde_json::Value =
            serde_json::from_slice(line).map_err(|error| not_json(&error))?;
        if !json.is_object() {
            return Err("not a JSON object".to_owned());
        }
        match json.get(&self.key_field) {
            Some(serde_json::Value::String(text)) => Ok(text.clone().into_bytes()),
            Some(serde_json::Value::Number(number)) => Ok(number.to_string().into_bytes()),
            Some(_) => Err(format!("`{}` is neither text nor a number", self.key_field)),
            None => Err(format!("there is no member `{}`", self.key_field)),
        }
    }
}

/// What is wrong with a line of JSON. Its number is told by whoever tells this, and the parser's own is always 1.
fn not_json(error: &serde_json::Error) -> String {
    let words = error.to_string();
    let what = words.split(" at line ").next().unwrap_or_default();
    format!("not JSON: {what} at column {}", error.column())
}

fn split<'a>(line: &'a [u8], separator: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let at = line.windows(separator.len()).position(|w| w == separator);
        match at {
            Some(at) => {
                rest = Some(&line[at + separator.len()..]);
                Some(&line[..at])
            }
            None => {
                rest = None;
                Some(line)
            }
        }
    })
}

/// The rows of a reader, one after the other.
pub struct Rows<R> {
    reader: R,
    shape: Shape,
    line: u64,
    offset: u64,
}

impl<R: BufRead> Rows<R> {
    /// The rows from the reader's place, which is `offset` bytes and `line` lines into the file.
    pub fn new(reader: R, shape: Shape, line: u64, offset: u64) -> Self {
        Rows {
            reader,
            shape,
            line,
            offset,
        }
    }

    /// The next row.
    ///
    /// # Errors
    /// The reader failed.
    pub fn next_row(&mut self) -> io::Result<Option<Row>> {
        loop {
            let mut line = Vec::new();
            let mut limited = self.reader.by_ref().take(MAX_LINE_BYTES);
            let mut length = limited.read_until(b'\n', &mut line)? as u64;
            if length == 0 {
                return Ok(None);
            }
            let whole = line.ends_with(b"\n") || length < MAX_LINE_BYTES;
            if !whole {
                length += self.reader.skip_until(b'\n')? as u64;
            }
            self.offset += length;
            self.line += 1;
            for end in [b'\n', b'\r'] {
                if line.last() == Some(&end) {
                    line.pop();
                }
            }
            if line.is_empty() {
                continue;
            }
            let pair = if whole {
                self.shape.pair(&line)
            } else {
                Err(format!("the line is longer than {MAX_LINE_BYTES} bytes"))
            };
            return Ok(Some(Row {
                line: self.line,
                end: self.offset,
                pair,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, format: Format, separator: &str, key: Option<&str>) -> Vec<Row> {
        let shape = Shape::new(format, separator, key).expect("a good shape");
        let mut rows = Rows::new(text.as_bytes(), shape, 0, 0);
        std::iter::from_fn(|| rows.next_row().expect("memory does not fail")).collect()
    }

    fn pair(row: &Row) -> (&str, &str) {
        let (key, value) = row.pair.as_ref().expect("a good row");
        let text = |bytes| std::str::from_utf8(bytes).expect("text");
        (text(key), text(value))
    }

    #[test]
    fn lines_keep_the_whole_line() {
        let found = rows("a\tb\nc\r\n\nd", Format::Lines, "\\t", None);
        let pairs: Vec<_> = found.iter().map(pair).collect();
        assert_eq!(pairs, [("a", "a\tb"), ("c", "c"), ("d", "d")]);
        let places: Vec<_> = found.iter().map(|r| (r.line, r.end)).collect();
        assert_eq!(places, [(1, 4), (2, 7), (4, 9)]);
    }

    #[test]
    fn fields_are_cut_at_the_separator() {
        let found = rows("Hamburg;12.0\nBulawayo;8.9;x\n", Format::Tsv, ";", None);
        let pairs: Vec<_> = found.iter().map(pair).collect();
        assert_eq!(pairs, [("Hamburg", "12.0"), ("Bulawayo", "8.9;x")]);
        let found = rows("1::two::3\n4\n", Format::Tsv, "::", Some("1"));
        assert_eq!(pair(&found[0]), ("two", "1::3"));
        assert_eq!(found[1].pair, Err("there is no field 1".to_owned()));
    }

    #[test]
    fn json_gives_its_member() {
        let text = "{\"key\":\"a\",\"n\":1}\n{\"key\":7}\n{\"n\":1}\nx\n{\"key\":[]}\n";
        let found = rows(text, Format::Jsonl, "\\t", None);
        assert_eq!(pair(&found[0]), ("a", "{\"key\":\"a\",\"n\":1}"));
        assert_eq!(pair(&found[1]), ("7", "{\"key\":7}"));
        assert!(found[2..].iter().all(|row| row.pair.is_err()));
        let found = rows("[1]\n{\"key\":}\n", Format::Jsonl, "\\t", None);
        assert_eq!(found[0].pair, Err("not a JSON object".to_owned()));
        let words = "not JSON: expected value at column 8";
        assert_eq!(found[1].pair, Err(words.to_owned()));
        let found = rows(text, Format::Jsonl, "\\t", Some("n"));
        assert_eq!(pair(&found[0]).0, "1");
    }

    #[test]
    fn bad_shapes_and_bad_keys_are_refused() {
        assert!(Shape::new(Format::Tsv, "", None).is_err());
        assert!(Shape::new(Format::Tsv, ";", Some("name")).is_err());
        let found = rows(";x\n", Format::Tsv, ";", None);
        assert_eq!(found[0].pair, Err("the key is empty".to_owned()));
        let long = "k".repeat(MAX_KEY_BYTES + 1);
        assert!(rows(&long, Format::Lines, ";", None)[0].pair.is_err());
    }
}
