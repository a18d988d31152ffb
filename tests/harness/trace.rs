//! The trace of a run: all that happens, in order, stamped with the run's time. Two simulated runs of one seed have the same trace,
//! byte for byte.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io::{self, BufWriter, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use tracing_subscriber::fmt::{MakeWriter, format::Writer, time::FormatTime};

use super::net::{EPOCH_MS, elapsed};

/// Lines that are kept to be shown when a run fails.
const LAST_LINES: usize = 120;

#[derive(Default)]
struct Inner {
    last: VecDeque<String>,
    file: Option<BufWriter<File>>,
    /// Why the file is not whole.
    failed: Option<io::Error>,
}

/// What a run's time is.
#[derive(Clone, Copy, Default)]
enum Time {
    /// The simulation's.
    #[default]
    Simulated,
    /// The machine's.
    Real {
        began: Instant,
        /// What the wall clock showed then, in ms since the Unix epoch.
        epoch_ms: u64,
    },
}

/// A trace. Clones share it.
#[derive(Clone, Default)]
pub struct Trace {
    time: Time,
    inner: Arc<Mutex<Inner>>,
}

impl Trace {
    /// A trace that is also written to a file.
    pub fn to_file(file: File) -> Self {
        let trace = Trace::default();
        trace.inner().file = Some(BufWriter::new(file));
        trace
    }

    /// The same, of a run in real time that begins now.
    pub fn in_real_time(self) -> Self {
        Trace {
            time: Time::Real {
                began: Instant::now(),
                epoch_ms: wall_ms(),
            },
            ..self
        }
    }

    /// Whether the run's time is the machine's.
    pub fn is_real_time(&self) -> bool {
        matches!(self.time, Time::Real { .. })
    }

    /// What wall clocks showed when the run began, in ms since the Unix epoch.
    pub fn epoch_ms(&self) -> u64 {
        match self.time {
            Time::Simulated => EPOCH_MS,
            Time::Real { epoch_ms, .. } => epoch_ms,
        }
    }

    /// How long the run lasts by now, in ms of its time.
    pub fn now_ms(&self) -> u64 {
        let now = match self.time {
            Time::Simulated => elapsed(),
            Time::Real { began, .. } => began.elapsed(),
        };
        now.as_millis() as u64
    }

    /// Adds a line, with the run's time before it.
    pub fn line(&self, words: fmt::Arguments<'_>) {
        let ms = self.now_ms();
        self.inner().push(format!("{ms:>7} {words}"));
    }

    /// The last lines.
    pub fn last(&self) -> Vec<String> {
        self.inner().last.iter().cloned().collect()
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// The first failure to write a line, told once.
    pub fn flush(&self) -> io::Result<()> {
        let mut inner = self.inner();
        if let Some(error) = inner.failed.take() {
            return Err(error);
        }
        match &mut inner.file {
            Some(file) => file.flush(),
            None => Ok(()),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn push(&mut self, line: String) {
        if let Some(file) = &mut self.file
            && let Err(error) = writeln!(file, "{line}")
        {
            self.failed.get_or_insert(error);
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

/// Stamps log lines with simulated time.
pub struct SimTime;

impl FormatTime for SimTime {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{:>7}", elapsed().as_millis())
    }
}

impl<'a> MakeWriter<'a> for Trace {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// Takes one formatted log line.
pub struct Line<'a>(&'a Trace);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.inner().push(text.trim_end().to_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "only for runs of real nodes, which read the same clock"
)]
fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
