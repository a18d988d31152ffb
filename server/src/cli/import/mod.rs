//! `ringfort import`: a file of rows into keys, many at a time.

mod rows;
mod state;

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ringfort_client::Client;
use serde_json::json;
use tokio::time::{Instant, sleep};
use xxhash_rust::xxh3::xxh3_64;

use self::{
    rows::{Format, Row, Rows, Shape},
    state::{State, Watermark},
};
use super::{
    Cli,
    client::Reach,
    exit::{CliError, Exit},
    out::Out,
    runtime,
};

/// The most rows in flight.
const MAX_IN_FLIGHT: u64 = 4096;
/// How long one row is tried while the nodes are unavailable: longer than a node takes to be restarted.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pauses between the tries of a row.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// A row that finds other values beside its own is written again, replacing them, so often.
const MAX_ROUNDS: u32 = 5;
/// How often the state is saved.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Failed rows that are told one by one.
const MAX_WORDS: u64 = 20;
/// The state knows a file by its length and the hash of so many bytes of its beginning.
const HEAD_BYTES: u64 = 64 << 10;

/// Ends the help.
const GOES_ON: &str = "\
Each row replaces what its key held; of rows with one key the last wins. A run that was stopped, or had failed rows, goes on
where it was when the same command is given again: FILE.ringfort-import remembers that.";

/// `ringfort import`: each row replaces what its key held; of rows with one key the last wins. A run that was stopped, or
/// that had failed rows, goes on where it was when it is started again (see FILE.ringfort-import).
#[derive(Debug, clap::Args)]
#[command(after_help = GOES_ON)]
pub struct Import {
    /// The file, or `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How a line becomes a key and a value
    #[arg(long, value_enum)]
    format: Format,
    /// What stands between the fields of a line
    #[arg(long, value_name = "TEXT", default_value = "\\t")]
    separator: String,
    /// Which field is the key: a number from 0 [default: 0]; for jsonl the name of a member [default: key]
    #[arg(long, value_name = "FIELD")]
    key_field: Option<String>,
    /// The namespace of the keys
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// Rows in flight
    #[arg(long, value_name = "COUNT", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=MAX_IN_FLIGHT))]
    in_flight: u64,
    /// Owners only: no other node may hold a hint for one
    #[arg(long)]
    strict: bool,
    /// Start from the first row, whatever an earlier run has done
    #[arg(long)]
    restart: bool,
    /// How to reach the nodes.
    #[command(flatten)]
    reach: Reach,
}

/// Imports the file, and prints `{"rows","acked","failed","seconds",…}`.
///
/// # Errors
/// Exit 1: the file cannot be read, or a row failed.
pub fn run(args: &Import, cli: &Cli, out: Out) -> Result<Exit, CliError> {
    let shape = Shape::new(args.format, &args.separator, args.key_field.as_deref())
        .map_err(CliError::usage)?;
    let unreadable = |error: io::Error| {
        CliError::failed(format!("{} cannot be read: {error}", args.file.display()))
    };
    if args.file.as_os_str() == "-" {
        let rows = Rows::new(BufReader::new(io::stdin()), shape, 0, 0);
        let job = Job::new(args, State::start(String::new()), None, 0, out);
        return runtime()?.block_on(work(job, rows, args.reach.client(cli, &args.namespace)?));
    }
    let mut file = File::open(&args.file).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(unreadable(io::ErrorKind::IsADirectory.into()));
    }
    let head = head(&mut file).map_err(unreadable)?;
    runtime()?.block_on(async {
        let client = args.reach.client(cli, &args.namespace)?;
        let cluster = patient(|| async { Ok(client.layout().await?.cluster_id) }).await?;
        let id = format!(
            "{head:016x} {} bytes, {:?} {:?} {}, {:016x} {}",
            metadata.len(),
            shape.format,
            args.separator,
            shape.key_field,
            cluster,
            args.namespace
        );
        let path = state::path_of(&args.file);
        let state = if args.restart {
            State::start(id)
        } else {
            State::load(&path, &id)
        };
        if state.rows > 0 {
            out.say(&format!(
                "going on after row {} (--restart starts anew)",
                state.rows
            ));
        }
        file.seek(SeekFrom::Start(state.offset))
            .map_err(unreadable)?;
        let rows = Rows::new(BufReader::new(file), shape, state.line, state.offset);
        work(
            Job::new(args, state, Some(path), metadata.len(), out),
            rows,
            client,
        )
        .await
    })
}

/// The hash of the beginning of a file.
fn head(file: &mut File) -> io::Result<u64> {
    use std::io::Read;
    let mut bytes = Vec::new();
    file.take(HEAD_BYTES).read_to_end(&mut bytes)?;
    Ok(xxh3_64(&bytes))
}

/// One run: what is counted, kept and shown.
struct Job<'a> {
    args: &'a Import,
    path: Option<PathBuf>,
    mark: Watermark,
    resumed: u64,
    rows: u64,
    failed: u64,
    saved: Instant,
    started: Instant,
    bar: ProgressBar,
    out: Out,
}

impl<'a> Job<'a> {
    fn new(args: &'a Import, state: State, path: Option<PathBuf>, length: u64, out: Out) -> Self {
        let bar = if out.watched() && !io::stdin().is_terminal() || out.watched() && length > 0 {
            ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr())
        } else {
            ProgressBar::hidden()
        };
        let template = "{bar:30} {bytes}/{total_bytes}  {elapsed}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_position(state.offset);
        Job {
            args,
            path,
            resumed: state.rows,
            rows: state.rows,
            mark: Watermark::new(state),
            failed: 0,
            saved: Instant::now(),
            started: Instant::now(),
            bar,
            out,
        }
    }

    fn fail(&mut self, line: u64, why: &str) {
        self.failed += 1;
        match self.failed {
            ..=MAX_WORDS => self
                .bar
                .suspend(|| self.out.say(&format!("line {line}: {why}"))),
            more if more == MAX_WORDS + 1 => self.out.say("more rows failed"),
            _ => {}
        }
    }

    fn save(&mut self, now: bool) {
        let Some(path) = &self.path else { return };
        self.bar.set_position(self.mark.state().offset);
        if (now || self.saved.elapsed() >= SAVE_EVERY) && !self.mark.state().job.is_empty() {
            self.saved = Instant::now();
            if let Err(error) = self.mark.state().save(path) {
                self.out.say(&format!(
                    "warning: {} cannot be written ({error}): a later run will start anew",
                    path.display()
                ));
                self.path = None;
            }
        }
    }

    /// Prints the summary; all done leaves no state behind.
    fn finish(mut self) -> Result<Exit, CliError> {
        self.bar.finish_and_clear();
        if self.failed > 0 {
            self.save(true);
        } else if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
        let next = self.path.as_ref().filter(|_| self.failed > 0);
        let seconds = self.started.elapsed().as_secs_f64();
        let acked = self.rows - self.failed;
        let seconds = (seconds * 1000.0).round() / 1000.0;
        if self.out.json {
            self.out.value(&json!({
                "rows": self.rows, "acked": acked, "failed": self.failed, "seconds": seconds,
                "resumed": self.resumed,
            }))?;
        } else {
            self.out.say(&format!(
                "{} rows, {acked} acknowledged, {} failed, {seconds} s",
                self.rows, self.failed
            ));
        }
        if let Some(path) = next {
            self.out.say(&format!(
                "the same command goes on after row {} and tries the failed ones again; {} remembers that, for as long \
                 as the file is the same",
                self.mark.state().rows,
                path.display()
            ));
        }
        Ok(if self.failed > 0 {
            Exit::Failed
        } else {
            Exit::Done
        })
    }
}

/// A row that has ended: its number, line and key, and how.
type Ended = (u64, u64, Vec<u8>, Result<(), CliError>);
/// Rows of one key that wait for the one in flight, so that the last of them wins.
type Waiting = VecDeque<(u64, u64, Vec<u8>)>;

async fn work<R: BufRead>(
    mut job: Job<'_>,
    mut rows: Rows<R>,
    client: Client,
) -> Result<Exit, CliError> {
    let to = Target {
        client,
        strict: job.args.strict,
    };
    let mut flying: FuturesUnordered<LocalBoxFuture<'_, Ended>> = FuturesUnordered::new();
    let mut busy: BTreeMap<Vec<u8>, Waiting> = BTreeMap::new();
    let mut waiting = 0;
    let mut more = true;
    let limit = usize::try_from(job.args.in_flight).unwrap_or(usize::MAX);
    loop {
        while more && flying.len() + waiting < limit {
            let row = rows.next_row().map_err(|error| {
                let file: &Path = &job.args.file;
                CliError::failed(format!("{} cannot be read: {error}", file.display()))
            });
            let row = match row {
                Ok(row) => row,
                Err(error) => {
                    job.save(true);
                    return Err(error);
                }
            };
            let Some(Row { line, end, pair }) = row else {
                more = false;
                break;
            };
            job.rows += 1;
            let number = job.mark.begin(end, line);
            match pair {
                Err(why) => {
                    job.fail(line, &why);
                    job.mark.end(number, false);
                }
                Ok((key, value)) => {
                    if let Some(queue) = busy.get_mut(&key) {
                        queue.push_back((number, line, value));
                        waiting += 1;
                    } else {
                        busy.insert(key.clone(), VecDeque::new());
                        flying.push(write(&to, number, line, key, value).boxed_local());
                    }
                }
            }
        }
        let Some((number, line, key, ended)) = flying.next().await else {
            break;
        };
        if let Err(error) = &ended {
            job.fail(line, &error.message);
        }
        job.mark.end(number, ended.is_ok());
        job.save(false);
        match busy.get_mut(&key).and_then(VecDeque::pop_front) {
            Some((number, line, value)) => {
                waiting -= 1;
                flying.push(write(&to, number, line, key, value).boxed_local());
            }
            None => {
                busy.remove(&key);
            }
        }
    }
    job.finish()
}

/// Where rows go, and how.
struct Target {
    client: Client,
    strict: bool,
}

/// Writes one row.
async fn write(to: &Target, number: u64, line: u64, key: Vec<u8>, value: Vec<u8>) -> Ended {
    let value = bytes::Bytes::from(value);
    let ended = patient(|| replace(to, &key, &value)).await;
    (number, line, key, ended)
}

/// Makes `value` the only one under `key`. Safe to repeat: what an earlier try has written is replaced.
async fn replace(to: &Target, key: &[u8], value: &bytes::Bytes) -> Result<(), CliError> {
    for _ in 0..MAX_ROUNDS {
        let read = to.client.get(key).strict(to.strict).await?;
        let mut put = to.client.put(key, value.clone()).strict(to.strict);
        if let Some(context) = read.context() {
            put = put.context(context.clone());
        }
        if put.await?.siblings <= 1 {
            return Ok(());
        }
    }
    // Others write the key at the same time; the row is among the values.
    Ok(())
}

/// Tries again for a while what failed for a reason that may pass.
async fn patient<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, CliError>
where
    F: Future<Output = Result<T, CliError>>,
{
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt().await {
            Err(error) if error.retryable && started.elapsed() < PATIENCE => {
                sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
            ended => return ended,
        }
    }
}
