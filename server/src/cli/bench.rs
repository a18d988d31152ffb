//! `ringfort bench`: how many operations a second, and how long each takes, through the client as users have it.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use clap::ValueEnum;
use futures::future::{join_all, try_join_all};
use hdrhistogram::Histogram;
use ringfort_client::{Client, Context};
use serde_json::json;
use tokio::time::Instant;

use super::{
    Cli,
    client::Reach,
    exit::{CliError, Exit},
    out::{Out, table},
    runtime,
};

/// Most writers at once.
const MAX_CLIENTS: u64 = 65_536;
/// The longest run, in seconds.
const MAX_SECONDS: u64 = 86_400;
/// The longest value, in bytes: what a node takes.
const MAX_VALUE_BYTES: u64 = 1 << 20;
/// Most operations a second that can be asked for.
const MAX_RATE: u64 = 10_000_000;
/// Most keys.
const MAX_KEYS: u64 = 100_000_000;
/// Significant digits of the latencies.
const DIGITS: u8 = 3;
/// Longer latencies are counted as this long, in microseconds.
const MAX_LATENCY_US: u64 = 600_000_000;
/// Tries of a key that is loaded before the run.
const LOAD_TRIES: u32 = 10;
/// Pause after an error, so that a dead cluster is not asked in a tight loop.
const ERROR_PAUSE: Duration = Duration::from_millis(1);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Overwrites, each with the context of the write before
    Put,
    /// Reads of keys that exist
    Get,
    /// Both by turns
    Mixed,
}

/// `ringfort bench`: each writer owns keys of its own, in the namespace `bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The keys are in the namespace `bench`, and stay there after the run.")]
pub struct Bench {
    /// What to measure
    #[arg(value_enum)]
    mode: Mode,
    /// Operations in flight
    #[arg(long, value_name = "COUNT", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=MAX_CLIENTS))]
    clients: u64,
    /// How long
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
    seconds: u64,
    /// So many operations a second, evenly spread; latencies count from when each was due [default: as many as go]
    #[arg(long, value_name = "OPERATIONS", value_parser = clap::value_parser!(u64).range(1..=MAX_RATE))]
    rate: Option<u64>,
    /// Also prints a line each so many seconds, of those alone
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
    every: Option<u64>,
    /// Size of each value, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=MAX_VALUE_BYTES))]
    value_size: u64,
    /// Owners only: no other node may hold a hint for one
    #[arg(long)]
    strict: bool,
    /// How many keys
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=MAX_KEYS))]
    keys: u64,
    /// How to reach the nodes.
    #[command(flatten)]
    reach: Reach,
}

/// Runs and prints `{"ops_per_s","errors","p50_us","p99_us","p999_us",…}`.
///
/// # Errors
/// The keys cannot be loaded, or not one operation succeeded.
pub fn run(bench: &Bench, cli: &Cli, out: Out) -> Result<Exit, CliError> {
    runtime()?.block_on(async {
        let client = bench.reach.client(cli, "bench")?;
        let clients = bench.clients.min(bench.keys);
        let mut writers: Vec<Writer> = (0..clients)
            .map(|number| Writer::new(number, clients, bench, client.clone()))
            .collect();
        try_join_all(writers.iter_mut().map(|w| w.load(bench.mode))).await?;
        let started = Instant::now();
        let end = started + Duration::from_secs(bench.seconds);
        let since = bench.every.map(|_| Arc::new(Mutex::new(Tally::new())));
        let runs = writers.into_iter().zip(0..).map(|(writer, number)| {
            let pace = bench.rate.map(|rate| Pace {
                first: started + Duration::from_secs_f64(f64::from(number) / rate as f64),
                every: Duration::from_secs_f64(clients as f64 / rate as f64),
            });
            tokio::spawn(writer.run(bench.mode, bench.keys, pace, since.clone(), end))
        });
        let runs = join_all(runs.collect::<Vec<_>>());
        let lines = async {
            let (Some(every), Some(since)) = (bench.every, &since) else {
                return std::future::pending().await;
            };
            each(every, since, started, out).await
        };
        let runs = tokio::select! {
            runs = runs => runs,
            Err(error) = lines => return Err(error),
        };
        let seconds = started.elapsed().as_secs_f64();
        let mut total = Tally::new();
        for run in runs {
            total.add(run.map_err(|error| CliError::failed(error.to_string()))?);
        }
        report(&total, seconds, out)
    })
}

/// Prints what was measured since the last time, for ever; gives what keeps it from printing.
async fn each(
    every: u64,
    since: &Mutex<Tally>,
    started: Instant,
    out: Out,
) -> Result<Infallible, CliError> {
    for turn in 1.. {
        let until = every * turn;
        tokio::time::sleep_until(started + Duration::from_secs(until)).await;
        let tally = std::mem::replace(&mut *lock(since), Tally::new());
        let at = |quantile| tally.latency.value_at_quantile(quantile);
        let ops_per_s = tally.latency.len() / every;
        if out.json {
            out.value(&json!({
                "until_s": until, "ops_per_s": ops_per_s, "errors": tally.errors,
                "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999),
                "latencies_us": tally.buckets(),
            }))?;
        } else {
            out.say(&format!(
                "{until} s: {ops_per_s} operations/s, {} errors, p50 {} us, p99 {} us, p99.9 {} us",
                tally.errors,
                at(0.5),
                at(0.99),
                at(0.999)
            ));
        }
    }
    unreachable!("turns do not end")
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report(total: &Tally, seconds: f64, out: Out) -> Result<Exit, CliError> {
    let done = total.latency.len();
    if let (0, Some(error)) = (done, &total.last_error) {
        return Err(error.clone());
    }
    let ops_per_s = (done as f64 / seconds).round();
    let at = |quantile| total.latency.value_at_quantile(quantile);
    let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
    if out.json {
        out.value(&json!({
            "ops_per_s": ops_per_s, "errors": total.errors, "p50_us": p50, "p99_us": p99, "p999_us": p999,
            "operations": done, "seconds": (seconds * 1000.0).round() / 1000.0,
        }))?;
    } else {
        let row = [ops_per_s.to_string(), total.errors.to_string()].into_iter();
        let row = row
            .chain([p50, p99, p999].map(|us| us.to_string()))
            .collect();
        out.table(&table(
            &["OPS/S", "ERRORS", "P50 US", "P99 US", "P99.9 US"],
            &[row],
        ))?;
        if let Some(error) = &total.last_error {
            out.say(&format!("the last error: {error}"));
        }
    }
    Ok(Exit::Done)
}

/// What one writer has measured.
struct Tally {
    latency: Histogram<u64>,
    errors: u64,
    last_error: Option<CliError>,
}

impl Tally {
    fn new() -> Self {
        Tally {
            latency: Histogram::new_with_max(MAX_LATENCY_US, DIGITS).expect("these are in range"),
            errors: 0,
            last_error: None,
        }
    }

    /// Latencies, each of which no more than a thousandth is rounded up by, and how many were that long, ascending: whoever adds up
    /// several lines can tell what all of them were.
    fn buckets(&self) -> Vec<(u64, u64)> {
        let recorded = self.latency.iter_recorded();
        recorded
            .map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()))
            .collect()
    }

    fn add(&mut self, other: Tally) {
        self.latency
            .add(&other.latency)
            .expect("both have the same bounds");
        self.errors += other.errors;
        self.last_error = other.last_error.or(self.last_error.take());
    }
}

/// When a writer's operations are due. One that is late goes on at once, so that what made it late counts for each of those that
/// waited.
#[derive(Debug, Clone, Copy)]
struct Pace {
    first: Instant,
    every: Duration,
}

impl Pace {
    fn due(&self, turn: usize) -> Instant {
        self.first + self.every.mul_f64(turn as f64)
    }
}

/// One operation in flight at a time, on keys that nobody else writes.
struct Writer {
    client: Client,
    /// Own keys: the number of each and the context of its last write.
    keys: Vec<(u64, Option<Context>)>,
    value: Bytes,
    strict: bool,
    chance: u64,
}

impl Writer {
    fn new(number: u64, of: u64, bench: &Bench, client: Client) -> Self {
        let step = usize::try_from(of).unwrap_or(usize::MAX);
        let mut chance = number + 1;
        let size = usize::try_from(bench.value_size).unwrap_or(0);
        let value: Vec<u8> = (0..size)
            .map(|_| draw(&mut chance).to_le_bytes()[0])
            .collect();
        Writer {
            client,
            keys: (number..bench.keys)
                .step_by(step)
                .map(|key| (key, None))
                .collect(),
            value: value.into(),
            strict: bench.strict,
            chance,
        }
    }

    /// Brings the own keys into the state that the run starts from: their contexts known, or the keys there.
    async fn load(&mut self, mode: Mode) -> Result<(), CliError> {
        for (key, known) in &mut self.keys {
            let mut tries = 0;
            *known = loop {
                match load_key(&self.client, *key, &self.value, mode).await {
                    Ok(context) => break context,
                    Err(error) if error.retryable && tries < LOAD_TRIES => {
                        tries += 1;
                        tokio::time::sleep(ERROR_PAUSE * 2_u32.pow(tries)).await;
                    }
                    Err(error) => return Err(error),
                }
            };
        }
        Ok(())
    }

    async fn run(
        mut self,
        mode: Mode,
        keys: u64,
        pace: Option<Pace>,
        since: Option<Arc<Mutex<Tally>>>,
        end: Instant,
    ) -> Tally {
        let mut tally = Tally::new();
        let mut turn = 0_usize;
        loop {
            let begun = pace.map_or_else(Instant::now, |pace| pace.due(turn));
            tokio::time::sleep_until(begun.min(end)).await;
            if begun >= end {
                return tally;
            }
            let own = turn % self.keys.len();
            let reads = mode == Mode::Get || (mode == Mode::Mixed && turn % 2 == 1);
            turn += 1;
            let done = if reads {
                self.get(keys).await
            } else {
                self.put(own).await
            };
            match done {
                Ok(()) => {
                    let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                    tally.latency.saturating_record(us);
                    if let Some(since) = &since {
                        lock(since).latency.saturating_record(us);
                    }
                }
                Err(error) => {
                    tally.errors += 1;
                    if let Some(since) = &since {
                        lock(since).errors += 1;
                    }
                    tally.last_error = Some(error);
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    /// Reads any key; one that is not there is an error, since all were loaded.
    async fn get(&mut self, keys: u64) -> Result<(), CliError> {
        let key = draw(&mut self.chance) % keys;
        let read = self.client.get(name(key)).strict(self.strict).await?;
        if read.is_found() {
            Ok(())
        } else {
            Err(CliError::new(
                Exit::NotFound,
                "NOT_FOUND",
                format!("{} is gone", name(key)),
            ))
        }
    }

    async fn put(&mut self, own: usize) -> Result<(), CliError> {
        let (key, known) = &mut self.keys[own];
        let context = match known.take() {
            Some(context) => Some(context),
            None => {
                let read = self.client.get(name(*key)).strict(self.strict).await?;
                read.context().cloned()
            }
        };
        let put = self.client.put(name(*key), self.value.clone());
        let mut put = put.strict(self.strict);
        if let Some(context) = context {
            put = put.context(context);
        }
        // Without a context the next write of this key reads first.
        *known = put.await?.context;
        Ok(())
    }
}

async fn load_key(
    client: &Client,
    key: u64,
    value: &Bytes,
    mode: Mode,
) -> Result<Option<Context>, CliError> {
    let read = client.get(name(key)).await?;
    let context = read.context().cloned();
    if mode == Mode::Put || read.is_found() {
        return Ok(context);
    }
    let mut put = client.put(name(key), value.clone());
    if let Some(context) = context {
        put = put.context(context);
    }
    Ok(put.await?.context)
}

/// 16 bytes for every number that there can be.
fn name(key: u64) -> String {
    format!("bench-{key:010}")
}

/// A step of xorshift64*: cheap, and good enough to choose keys by.
fn draw(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_sixteen_bytes() {
        assert_eq!(name(0).len(), 16);
        assert_eq!(name(MAX_KEYS).len(), 16);
    }

    #[test]
    fn latencies_of_all_writers_are_counted_as_they_were() {
        let mut total = Tally::new();
        for us in [1, 400, 90_000, u64::MAX] {
            let mut one = Tally::new();
            one.latency.saturating_record(us);
            total.add(one);
        }
        let at = |quantile| total.latency.value_at_quantile(quantile);
        assert_eq!((at(0.25), at(0.5), total.latency.len()), (1, 400, 4));
        assert!(at(1.0) >= MAX_LATENCY_US);
        let buckets = total.buckets();
        assert_eq!((buckets[0], buckets.len()), ((1, 1), 4));
        let (bound, count) = buckets[2];
        assert!(
            (90_000..=90_090).contains(&bound) && count == 1,
            "{buckets:?}"
        );
    }

    #[tokio::test]
    async fn a_pace_does_not_drift() {
        let pace = Pace {
            first: Instant::now(),
            every: Duration::from_millis(3),
        };
        assert_eq!(pace.due(0), pace.first);
        assert_eq!(pace.due(1_000), pace.first + Duration::from_secs(3));
    }

    #[test]
    fn chance_does_not_stand_still() {
        let mut state = 1;
        let drawn: std::collections::BTreeSet<u64> = (0..1000).map(|_| draw(&mut state)).collect();
        assert_eq!(drawn.len(), 1000);
    }
}
