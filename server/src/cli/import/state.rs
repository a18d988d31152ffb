//! How far an import has come: a small file next to the data, by which the same command goes on after it was stopped.
//!
//! It says where the first row begins that was not acknowledged. Rows past that may have been written already, and are
//! written again: a row replaces what it wrote before.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Ends the name of the state file, after the name of the data file.
const SUFFIX: &str = ".ringfort-import";

/// What the state file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What was imported, how and whereto: a file that is another by now, or another cluster, starts anew.
    pub job: String,
    /// Where the first row begins that is not acknowledged.
    pub offset: u64,
    /// Lines before it.
    pub line: u64,
    /// Rows before it; all were acknowledged.
    pub rows: u64,
}

/// The name of the state file of a data file.
pub fn path_of(data: &Path) -> PathBuf {
    let mut name = OsString::from(data);
    name.push(SUFFIX);
    PathBuf::from(name)
}

impl State {
    /// The beginning of a job.
    pub fn start(job: String) -> Self {
        State {
            job,
            offset: 0,
            line: 0,
            rows: 0,
        }
    }

    /// What is left of an earlier run of the same job; else the beginning.
    pub fn load(path: &Path, job: &str) -> Self {
        fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok())
            .filter(|state| state.job == job)
            .unwrap_or_else(|| State::start(job.to_owned()))
    }

    /// Keeps it, wholly or not at all.
    ///
    /// # Errors
    /// The directory takes no file.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut next = OsString::from(path);
        next.push(".new");
        fs::write(&next, serde_json::to_vec(self)?)?;
        fs::rename(&next, path)
    }
}

/// Which rows are done, in whatever order they end: finds the first that is not acknowledged.
#[derive(Debug)]
pub struct Watermark {
    state: State,
    /// Rows that were begun and lie past the watermark, by number: whether acknowledged, where they end, their line.
    open: BTreeMap<u64, (Option<bool>, u64, u64)>,
    next: u64,
}

impl Watermark {
    /// Goes on from `state`.
    pub fn new(state: State) -> Self {
        Watermark {
            next: state.rows,
            state,
            open: BTreeMap::new(),
        }
    }

    /// A row begins; gives its number.
    pub fn begin(&mut self, end: u64, line: u64) -> u64 {
        let row = self.next;
        self.next += 1;
        self.open.insert(row, (None, end, line));
        row
    }

    /// A row has ended. A failed one holds the watermark for ever: the next run tries it again.
    pub fn end(&mut self, row: u64, acknowledged: bool) {
        if let Some(entry) = self.open.get_mut(&row) {
            entry.0 = Some(acknowledged);
        }
        while let Some(first) = self.open.first_entry() {
            let (Some(true), end, line) = *first.get() else {
                break;
            };
            self.state.offset = end;
            self.state.line = line;
            self.state.rows += 1;
            first.remove();
        }
        // Behind a failed row nothing moves any more, and nothing needs to be remembered.
        if self
            .open
            .first_key_value()
            .is_some_and(|(_, entry)| entry.0 == Some(false))
        {
            self.open.retain(|_, entry| entry.0 != Some(true));
        }
    }

    /// Where the import stands.
    pub fn state(&self) -> &State {
        &self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_waits_for_the_slowest_row() {
        let mut mark = Watermark::new(State::start("job".to_owned()));
        let rows: Vec<u64> = (1..=4).map(|i| mark.begin(i * 10, i)).collect();
        mark.end(rows[1], true);
        assert_eq!(mark.state().offset, 0);
        mark.end(rows[0], true);
        assert_eq!(
            (mark.state().offset, mark.state().line, mark.state().rows),
            (20, 2, 2)
        );
        mark.end(rows[2], false);
        mark.end(rows[3], true);
        assert_eq!(mark.state().offset, 20, "a failed row is tried again");
    }

    #[test]
    fn a_state_is_found_again_by_the_same_job_only() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = path_of(&dir.path().join("rows.tsv"));
        assert_eq!(State::load(&path, "job"), State::start("job".to_owned()));
        let state = State {
            offset: 20,
            line: 2,
            rows: 2,
            ..State::start("job".to_owned())
        };
        state.save(&path).expect("the directory is ours");
        assert_eq!(State::load(&path, "job"), state);
        assert_eq!(
            State::load(&path, "other"),
            State::start("other".to_owned())
        );
    }
}
