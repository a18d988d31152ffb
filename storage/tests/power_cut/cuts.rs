//! The promise: after a power cut at any moment every acknowledged write is there. Nothing is damaged by a cut, so nothing may be
//! reported as damaged. After one flipped byte the same holds, or the damage is recognised and nothing wrong is served.

use std::path::Path;
use std::sync::Arc;

use crate::chance::Chance;
use crate::disk::Disk;
use crate::history::History;
use crate::image::Image;
use crate::images::Images;
use crate::judge::{Case, Outcome, judge};
use crate::life::{self, Life};
use crate::places;

/// Images of cuts, and of flips; the environment may ask for more.
const CUTS: u64 = 1_000;
const FLIPS: u64 = 200;

/// What drives a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drive {
    Steps,
    Threads,
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    PowerCut,
    /// The process dies before it syncs a file of this kind; what it wrote and did not sync stays for the system to write, or
    /// for a later power cut to lose.
    Kill(&'static str),
    Stop,
}

/// Lives of one store: the next begins from what the last leaves.
const LIVES: [(Drive, End); 7] = [
    (Drive::Steps, End::PowerCut),
    (Drive::Steps, End::Kill("checkpoint")),
    (Drive::Steps, End::Kill(places::MARK)),
    (Drive::Steps, End::Stop),
    (Drive::Threads, End::Stop),
    (Drive::Steps, End::Kill("log")),
    (Drive::Steps, End::PowerCut),
];
const STEPS: usize = 1_200;

/// Failures that are reported in full.
const FAILURES_SHOWN: usize = 5;

/// Operations that a start and what comes right after it take.
const START_OPS: usize = 64;

/// Of so many images of cuts one is written on, stopped in order and opened again.
const GO_ON: usize = 8;

/// What a life begins with.
#[derive(Default)]
struct Begin {
    image: Image,
    history: History,
    /// The disk under the image, if part of that is not synced.
    unsynced: Option<Disk>,
}

#[test]
fn nothing_acknowledged_is_lost() {
    let _turn = crate::turn();
    crate::quiet_engine();
    let seed = crate::setting("POWER_CUT_SEED", 1);
    let cuts = crate::setting("POWER_CUT_IMAGES", CUTS) as usize;
    let flips = crate::setting("POWER_CUT_FLIPS", FLIPS) as usize;
    let scratch = crate::scratch();
    let mut chance = Chance::new(seed);
    let mut cut_images = Images::new(scratch.path());
    let mut flip_images = Images::new(scratch.path());

    let mut begin = Begin::default();
    let mut renewals = 0;
    for (number, (drive, end)) in LIVES.into_iter().enumerate() {
        let root = scratch.path().join(format!("life-{number}"));
        begin.image.write(&root);
        let (threads, stop) = (drive == Drive::Threads, end == End::Stop);
        let life = life::record(&root, begin.history, STEPS, threads, stop, chance.fork());
        std::fs::remove_dir_all(&root).expect("removes");
        let name = format!("power-cut-{seed}-{number}");
        places::describe(&name, &life);
        renewals += life.renewals;
        let disk = match begin.unsynced {
            Some(disk) => disk.go_on(&life.trace),
            None => Disk::new(&life.trace),
        };
        let (cuts, flips) = (cuts.div_ceil(LIVES.len()), flips.div_ceil(LIVES.len()));
        cut_all(
            &name,
            &life,
            disk.clone(),
            cuts,
            &mut chance.fork(),
            &mut cut_images,
        );
        flip_all(
            &name,
            &life,
            disk.clone(),
            flips,
            &mut chance.fork(),
            &mut flip_images,
        );
        let root = scratch.path().join("next");
        begin = next(&name, life, disk, end, &root, &mut chance.fork());
    }
    let (cut, mut failures) = cut_images.finish();
    let (flipped, more) = flip_images.finish();
    failures.extend(more);
    assert!(renewals > 0, "no life renewed its engine");
    println!("seed {seed}: cuts {cut:?}, flips {flipped:?}");
    let (count, shown) = (failures.len(), failures.len().min(FAILURES_SHOWN));
    let shown = failures[..shown].join("\n");
    assert!(count == 0, "seed {seed}: {count} images failed:\n{shown}");
    let recognised =
        |outcome: &Outcome| !matches!(outcome, Outcome::Whole | Outcome::WholeNewEngine);
    assert!(
        flips == 0 || flipped.keys().any(recognised),
        "no flip did any damage"
    );
}

/// Submits images of cuts at random positions of a life, and checks that nothing of it was missed by the recorder.
fn cut_all(
    name: &str,
    life: &Life,
    mut disk: Disk,
    count: usize,
    chance: &mut Chance,
    images: &mut Images,
) {
    let history = Arc::new(life.history.clone());
    let ops = &life.trace.ops;
    let syncs = places::syncs(&life.trace, 0);
    let firsts = places::firsts(&syncs);
    let mut cuts: Vec<usize> = (0..count)
        .map(|_| match chance.below(4) {
            // While it starts, and at its first changes.
            0 => chance.below(START_OPS.min(ops.len() + 1)),
            // With the most at stake, for the first time and later.
            1 => places::pick(&firsts, chance),
            2 => places::pick(&syncs, chance),
            _ => chance.below(ops.len() + 1),
        })
        .collect();
    cuts.sort_unstable();
    let mut at = 0;
    for (number, position) in cuts.into_iter().enumerate() {
        ops[at..position].iter().for_each(|op| disk.apply(op));
        at = position;
        let mut chance = chance.fork();
        images.submit(Case {
            name: format!("{name}-cut-{number}-at-{position}"),
            image: disk.cut(&mut chance),
            history: Arc::clone(&history),
            position,
            flipped: false,
            goes_on: number % GO_ON == 0,
            chance,
        });
    }
    ops[at..].iter().for_each(|op| disk.apply(op));
    let missed = disk.seen().difference(&life.end);
    assert_eq!(missed, None, "{name}: something was not recorded");
}

/// Submits images of moments with everything durable and sealed, each with one byte flipped.
fn flip_all(
    name: &str,
    life: &Life,
    mut disk: Disk,
    count: usize,
    chance: &mut Chance,
    images: &mut Images,
) {
    let history = Arc::new(life.history.clone());
    let ops = &life.trace.ops;
    let mut moments: Vec<usize> = (0..count)
        .map(|_| life.sealed[chance.below(life.sealed.len())])
        .collect();
    moments.sort_unstable();
    let mut at = 0;
    for (number, position) in moments.into_iter().enumerate() {
        ops[at..position].iter().for_each(|op| disk.apply(op));
        at = position;
        let mut chance = chance.fork();
        let mut image = disk.seen();
        let (file, offset) = places::flip(&mut image, &mut chance);
        images.submit(Case {
            name: format!("{name}-flip-{number}-at-{position}-{file}-{offset}"),
            image,
            history: Arc::clone(&history),
            position,
            flipped: true,
            goes_on: false,
            chance,
        });
    }
}

/// What the next life begins with: the end of the last, with `disk` as at its beginning.
fn next(
    name: &str,
    life: Life,
    mut disk: Disk,
    end: End,
    root: &Path,
    chance: &mut Chance,
) -> Begin {
    let ops = &life.trace.ops;
    // Late, so that lives build on each other; with something unsynced.
    let late = places::syncs(&life.trace, ops.len() / 2);
    let position = match end {
        End::Stop => ops.len(),
        End::PowerCut => places::pick(&late, chance),
        // Renewals are few: none of them may be late.
        End::Kill(kind) => match late.get(kind) {
            Some(late) => late[chance.below(late.len())],
            None => places::pick(&late, chance),
        },
    };
    ops[..position].iter().for_each(|op| disk.apply(op));
    let image = match end {
        End::PowerCut => disk.cut(chance),
        End::Kill(_) | End::Stop => disk.seen(),
    };
    // How far the log comes back is seen by opening a copy, which is judged, too.
    image.write(root);
    let case = Case {
        name: format!("{name}-end-at-{position}"),
        image,
        history: Arc::new(life.history),
        position,
        flipped: false,
        goes_on: false,
        chance: chance.fork(),
    };
    judge(root, &case).unwrap_or_else(|what| panic!("{}: {what}", case.name));
    let opened = life::open(root, chance).expect("opens again");
    let sequence = opened.store.stats().last_sequence;
    drop(opened);
    std::fs::remove_dir_all(root).expect("removes");
    let killed = matches!(end, End::Kill(_));
    Begin {
        image: case.image,
        history: case.history.go_on(position, sequence, !killed),
        unsynced: killed.then_some(disk),
    }
}
