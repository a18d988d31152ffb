//! A run against real nodes, from outside: the simulation's workload through real connections, faults that a seed schedules, and
//! the simulation's checker.
//!
//! *Left out on purpose:* what a node holds inside. Only what clients saw is judged, and no time: the machine's is not the seed's.

pub mod http;
pub mod schedule;

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{runtime::Runtime, task::JoinHandle};

use super::{
    checker,
    history::History,
    tempo::Baton,
    trace::Trace,
    workload::{Dial, Manner, Plan, Worker, final_pass},
};
use schedule::{AT_ONCE_MAX, Fault, Kind, schedule};

/// Time between two looks at the nodes.
const LOOK: Duration = Duration::from_millis(20);
/// Looks until a run gives up on a node that is to come back, or on the final pass: some minutes.
const LOOKS_MAX: u32 = 15_000;
/// Clients go on for this long after all nodes are back.
const AFTER: Duration = Duration::from_secs(1);
/// The longest pause of a client between two calls, in ms. The checker's work grows with the square of the calls.
const PAUSE_MS: u64 = 40;

/// Nodes, held from outside: processes, or containers.
pub trait Held {
    /// Where clients reach the nodes.
    fn endpoints(&self) -> Vec<String>;
    /// The kinds of faults that can be done here.
    fn kinds(&self) -> Vec<Kind>;
    /// Begins a fault, which is to last until [`Self::end`]. The node's process runs.
    fn begin(&mut self, fault: &Fault);
    /// Ends it.
    fn end(&mut self, fault: &Fault);
    /// Starts nodes again that ended and are not to stay away; gives what no fault explains. Called often.
    fn tend(&mut self) -> Vec<String>;
    /// Whether the node's process runs.
    fn is_running(&mut self, node: usize) -> bool;
    /// Whether the node serves clients.
    fn is_ready(&mut self, node: usize) -> bool;
}

/// Settings of a run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Decides clients, calls and faults; not when the machine does what.
    pub seed: u64,
    /// Number of clients.
    pub clients: usize,
    /// How long faults come, in ms.
    pub storm_ms: u64,
}

impl Options {
    /// The seeds of the runs that the environment asks for: `RINGFORT_STORMS` of them, from `RINGFORT_STORM_SEED` on; else one, the same
    /// every day.
    pub fn seeds() -> Range<u64> {
        let number = |name: &str| {
            let text = std::env::var(name).ok();
            text.map_or(1, |text| text.parse().expect("a number"))
        };
        let first = number("RINGFORT_STORM_SEED");
        first..first + number("RINGFORT_STORMS")
    }
}

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Calls that clients made.
    pub calls: u64,
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Calls that outlived their deadline by more than the simulation allows: told, not judged.
    pub late: u64,
    /// Calls that failed, by the kind of their error.
    pub errors: BTreeMap<String, u64>,
    /// Faults that were done.
    pub faults: BTreeMap<Kind, u64>,
    /// What is wrong; empty if all is well.
    pub wrong: Vec<String>,
}

/// Runs the workload against nodes that are all ready, while faults come; heals; reads everything, and judges.
pub fn run(nodes: &mut dyn Held, options: &Options, trace: &Trace) -> Report {
    let mut chance = StdRng::seed_from_u64(options.seed);
    let endpoints = nodes.endpoints();
    let plan = Plan {
        dial: Dial::Tcp,
        keys: chance.random_range(5..30),
        copies: 3.min(endpoints.len() as u32),
        endpoints,
        pause_ms: PAUSE_MS,
        manner: Manner::Usual,
        baton: Baton::default(),
        begin: Arc::default(),
        stop: Arc::default(),
        working: Arc::default(),
        healed: Arc::default(),
        done: Arc::default(),
        damaged: false,
        history: History::new(trace.clone()),
    };
    let runtime = Runtime::new().expect("a runtime for the clients");
    let workers: Vec<_> = (0..options.clients)
        .map(|number| {
            let worker = Worker::new(plan.clone(), number, chance.random());
            runtime.spawn(worker.run())
        })
        .collect();
    let pass = runtime.spawn(final_pass(plan.clone(), chance.random()));
    let count = plan.endpoints.len();
    let faults = schedule(chance.random(), &nodes.kinds(), count, options.storm_ms);
    let mut run = Run {
        nodes,
        plan,
        lasting: Vec::new(),
        report: Report::default(),
    };
    if let Err(wrong) = run.phases(&faults, workers, pass) {
        run.report.wrong.push(wrong);
    }
    run.judge()
}

struct Run<'a> {
    nodes: &'a mut dyn Held,
    plan: Plan,
    /// Faults with the time of their end, in ms.
    lasting: Vec<(u64, Fault)>,
    report: Report,
}

impl Run<'_> {
    fn phases(
        &mut self,
        faults: &[Fault],
        workers: Vec<JoinHandle<()>>,
        pass: JoinHandle<()>,
    ) -> Result<(), String> {
        self.say(format_args!("the storm begins"));
        set(&self.plan.begin);
        let mut began_ms = self.now_ms();
        for fault in faults {
            self.wait_until(began_ms + fault.at_ms);
            self.hurt(fault)?;
            // A slow machine stretches the schedule, so that the rests between faults stay.
            began_ms = began_ms.max(self.now_ms() - fault.at_ms);
        }
        self.say(format_args!("healing"));
        for (_, fault) in std::mem::take(&mut self.lasting) {
            self.end(&fault);
        }
        self.wait("not all nodes are back", |run| {
            (0..run.plan.endpoints.len()).all(|node| run.nodes.is_ready(node))
        })?;
        self.wait_until(self.now_ms() + AFTER.as_millis() as u64);
        set(&self.plan.stop);
        self.wait("a client does not stop", |_| {
            workers.iter().all(JoinHandle::is_finished)
        })?;
        workers.into_iter().try_for_each(ended_well)?;
        self.say(format_args!("the final pass"));
        set(&self.plan.healed);
        self.wait("the final pass does not end", |_| pass.is_finished())?;
        ended_well(pass)
    }

    fn now_ms(&self) -> u64 {
        self.plan.history.trace.now_ms()
    }

    fn say(&self, words: std::fmt::Arguments<'_>) {
        self.plan.history.trace.line(words);
    }

    /// Begins a fault once none is in its way and its node runs: one that just came back may be hit in its recovery.
    fn hurt(&mut self, fault: &Fault) -> Result<(), String> {
        self.wait("a fault does not end", |run| {
            let lasting = &run.lasting;
            lasting.len() < AT_ONCE_MAX && !lasting.iter().any(|(_, last)| last.excludes(fault))
        })?;
        self.wait("a node does not start", |run| {
            run.nodes.is_running(fault.node)
        })?;
        self.say(format_args!("fault {fault:?}"));
        self.nodes.begin(fault);
        *self.report.faults.entry(fault.kind).or_default() += 1;
        self.lasting.push((self.now_ms() + fault.for_ms, *fault));
        Ok(())
    }

    fn end(&mut self, fault: &Fault) {
        self.say(format_args!("ends {fault:?}"));
        self.nodes.end(fault);
    }

    /// Looks after the nodes once, and pauses.
    fn look(&mut self) {
        let now_ms = self.now_ms();
        let lasting = std::mem::take(&mut self.lasting);
        let (over, lasting): (Vec<_>, Vec<_>) = lasting.into_iter().partition(|l| l.0 <= now_ms);
        self.lasting = lasting;
        for (_, fault) in over {
            self.end(&fault);
        }
        for wrong in self.nodes.tend() {
            self.say(format_args!("{wrong}"));
            self.report.wrong.push(wrong);
        }
        std::thread::sleep(LOOK);
    }

    fn wait_until(&mut self, at_ms: u64) {
        while self.now_ms() < at_ms {
            self.look();
        }
    }

    fn wait(
        &mut self,
        otherwise: &str,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), String> {
        for _ in 0..LOOKS_MAX {
            if done(self) {
                return Ok(());
            }
            self.look();
        }
        Err(otherwise.to_owned())
    }

    fn judge(self) -> Report {
        let records = self.plan.history.records();
        let mut report = self.report;
        report.wrong.extend(records.wrong.iter().cloned());
        report
            .wrong
            .extend(checker::judge(&records, self.plan.copies, false));
        if records.finals.len() != self.plan.keys && report.wrong.is_empty() {
            report
                .wrong
                .push("not every key was read in the end".to_owned());
        }
        report.calls = records.calls;
        report.acked = checker::acked(&records);
        report.late = records.late;
        report.errors = records.errors.clone();
        report
    }
}

/// Whether a task that is finished did not panic.
fn ended_well(task: JoinHandle<()>) -> Result<(), String> {
    match task.now_or_never() {
        Some(Ok(())) => Ok(()),
        other => Err(format!("a client ended badly: {other:?}")),
    }
}

fn set(flag: &AtomicBool) {
    flag.store(true, Ordering::Relaxed);
}

impl Report {
    /// Panics unless the run kept every promise, did work, and met every kind of fault. `trace` is where all of its events stand.
    pub fn assert_well(&self, options: &Options, kinds: &[Kind], trace: &str) {
        println!("{options:?}: {self:?}");
        assert!(
            self.wrong.is_empty(),
            "seed {}: {}\nall events: {trace}",
            options.seed,
            self.wrong.join("\n")
        );
        assert!(self.acked > 0, "nothing was written");
        for kind in kinds {
            assert!(self.faults.contains_key(kind), "{kind:?} never came");
        }
    }
}
