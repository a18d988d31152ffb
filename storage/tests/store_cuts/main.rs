//! Power cuts and flipped bytes on real files and sled (I1, and "nothing unverified is served").
//!
//! A store is put through its work while every write, truncation and sync of its files is recorded. From the record come
//! images of what a cut at a random moment leaves: each unsynced block of 512 bytes or 4 KiB is kept or lost by chance.
//! Each image is opened: whatever had been acknowledged by then is there, or the store says what is damaged and serves
//! nothing wrong. The same for images in which one byte is flipped.
//!
//! Of names, a creation counts once its directory is synced; a removal counts at once.

mod dice;
mod image;
mod recorder;
mod workload;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use dice::Dice;
use image::{Image, Replay};
use recorder::{Event, FileId};
use workload::{Expected, Verdict};

const CUTS: usize = 1_000;
const FLIPS: usize = 200;
const CHANGES: u64 = 500;
const SEED: u64 = 1;

/// An image, and what may be found in it.
struct Case {
    image: Image,
    expected: Expected,
    what: String,
}

#[test]
fn power_cuts_and_flipped_bytes_lose_nothing_unnoticed() {
    let (base, before, events) = record();
    let writes = events
        .iter()
        .filter(|event| matches!(event, Event::Write { .. }))
        .count();
    let syncs = events
        .iter()
        .filter(|event| matches!(event, Event::Synced { .. }))
        .count();
    assert!(
        writes > 200 && syncs > 100,
        "{writes} writes and {syncs} syncs are no workload"
    );

    recorder::skip_syncs(true);
    let cuts = check_all(CUTS, cut_cases(&base, &before, &events, CUTS));
    println!("{CUTS} cuts: {cuts:?}");
    // The syncs are where they must be: a cut is no damage.
    assert_eq!(
        cuts,
        Tally {
            whole: CUTS,
            ..Tally::default()
        }
    );

    let flips = check_all(FLIPS, flip_cases(&base, &before, &events, FLIPS));
    println!("{FLIPS} flips: {flips:?}");
    assert!(
        flips.recognised > FLIPS / 20,
        "flips that hit nothing prove nothing: {flips:?}"
    );
}

/// Records a store at work, from its second start to its clean stop. Returns the files at that start, what had been
/// acknowledged before, and what happened.
fn record() -> (Image, Expected, Vec<Event>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path().join("store");
    std::fs::create_dir(&root).expect("is made");
    let mut before = Expected::default();
    recorder::start(&root);
    workload::run(workload::open(&root, 1).expect("opens"), 1, 100, SEED);
    recorder::stop()
        .iter()
        .for_each(|event| before.apply(event));

    let opened = workload::open(&root, 2).expect("opens again");
    let base = recorder::files_under(&root)
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).expect("reads");
            (path.strip_prefix(&root).expect("below").to_owned(), bytes)
        })
        .collect();
    recorder::start(&root);
    workload::run(opened, 100, 100 + CHANGES, SEED + 1);
    (base, before, recorder::stop())
}

/// Cuts at random moments, in their order.
fn cut_cases<'a>(
    base: &Image,
    before: &Expected,
    events: &'a [Event],
    count: usize,
) -> impl Iterator<Item = Case> + use<'a> {
    let mut dice = Dice(SEED);
    let mut moments: Vec<usize> = (0..count)
        .map(|_| dice.below(events.len() as u64 + 1) as usize)
        .collect();
    moments.sort_unstable();
    let (mut replay, mut expected, mut at) = (Replay::new(base), before.clone(), 0);
    moments.into_iter().map(move |moment| {
        while at < moment {
            replay.apply(at, &events[at]);
            expected.apply(&events[at]);
            at += 1;
        }
        let kept_percent = [0, 10, 50, 90, 100][dice.below(5) as usize];
        let image = replay.cut(&mut dice, kept_percent);
        let what = format!(
            "cut before event {moment} of {}, {kept_percent} % kept",
            events.len()
        );
        Case {
            image,
            expected: expected.clone(),
            what,
        }
    })
}

/// Images with everything synced, and one byte flipped that was not zero.
fn flip_cases<'a>(
    base: &Image,
    before: &Expected,
    events: &'a [Event],
    count: usize,
) -> impl Iterator<Item = Case> + use<'a> {
    let mut dice = Dice(SEED + 7);
    let (mut replay, mut expected, mut at) = (Replay::new(base), before.clone(), 0);
    let mut proof = Proof::new(base);
    (0..count).map(move |number| {
        // The last fifth are images of the clean stop.
        let moment = (events.len() * number * 5 / (count * 4)).min(events.len());
        while at < moment {
            replay.apply(at, &events[at]);
            proof.apply(at, &events[at], &mut expected);
            at += 1;
        }
        let mut image = replay.cut(&mut dice, 100);
        let (file, offset) = loop {
            let file = dice.below(image.len() as u64) as usize;
            let bytes = &image[file].1;
            let offset = dice.below(bytes.len().max(1) as u64) as usize;
            if bytes.get(offset).is_some_and(|byte| *byte != 0) {
                break (file, offset);
            }
        };
        image[file].1[offset] ^= 1 << dice.below(8);
        let what = format!(
            "event {moment} of {}, a flip in {} at {offset}",
            events.len(),
            image[file].0.display()
        );
        Case {
            image,
            expected: expected.clone(),
            what,
        }
    })
}

/// Holds acknowledgements back until a later group of the log is durable. Damage to the very last group cannot be told
/// from a group that the cut tore before it was acknowledged; a seal follows within 10 ms of idle time.
struct Proof {
    /// Segments of the log, with the last write to each that was more than zeros.
    segments: BTreeMap<FileId, Option<usize>>,
    held: Vec<(usize, Event)>,
}

impl Proof {
    fn new(base: &Image) -> Self {
        let segments = (0..)
            .zip(base)
            .filter(|(_, (path, _))| path.starts_with("log"));
        Self {
            segments: segments.map(|(file, _)| (file, None)).collect(),
            held: Vec::new(),
        }
    }

    fn apply(&mut self, at: usize, event: &Event, expected: &mut Expected) {
        match event {
            Event::Named { path, file } if path.starts_with("log") => {
                self.segments.entry(*file).or_default();
            }
            Event::Write { file, bytes, .. } if bytes.iter().any(|byte| *byte != 0) => {
                self.segments
                    .entry(*file)
                    .and_modify(|last| *last = Some(at));
            }
            Event::Synced { file, begun } => {
                let written = self
                    .segments
                    .get(file)
                    .copied()
                    .flatten()
                    .filter(|written| written < begun);
                let proven = self.held.partition_point(|(held, _)| Some(*held) < written);
                self.held
                    .drain(..proven)
                    .for_each(|(_, event)| expected.apply(&event));
            }
            Event::Acknowledged { .. } => self.held.push((at, event.clone())),
            _ => expected.apply(event),
        }
    }
}

/// Verdicts, counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    whole: usize,
    recognised: usize,
    refused: usize,
}

/// Opens every case on two threads. sled's panics are caught by the store; their words would fill the log.
fn check_all(count: usize, cases: impl Iterator<Item = Case> + Send) -> Tally {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (cases, number) = (Mutex::new(cases), AtomicUsize::new(0));
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.lock().expect("no case panics").next() {
                    let seed = number.fetch_add(1, Ordering::SeqCst) as u64 + 100;
                    let directory = tempfile::tempdir().expect("a temporary directory");
                    let verdict = check_case(&case, directory.path(), seed);
                    results
                        .lock()
                        .expect("no push panics")
                        .push((case.what, verdict));
                }
            });
        }
    });
    std::panic::set_hook(hook);
    let results = results.into_inner().expect("no push panics");
    assert_eq!(results.len(), count, "a check panicked");
    let mut tally = Tally::default();
    for (what, verdict) in results {
        match verdict.unwrap_or_else(|wrong| panic!("{what}: {wrong}")) {
            Verdict::Whole => tally.whole += 1,
            Verdict::Recognised => tally.recognised += 1,
            Verdict::Refused => tally.refused += 1,
        }
    }
    tally
}

fn check_case(case: &Case, directory: &Path, seed: u64) -> Result<Verdict, String> {
    image::write(&case.image, directory);
    workload::check(directory, &case.expected, seed)
}
