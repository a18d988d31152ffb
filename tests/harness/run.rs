//! One run: a cluster starts, clients work while faults come and go, everything heals, and what is there is read and judged.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use turmoil::{Builder, Sim};

use super::{
    ambush::Ambush,
    checker,
    cluster::{self, Role, SimNode},
    drill::{Drill, Script},
    faults::{self, Kind},
    history::History,
    net::{EPOCH_MS, set_now},
    operator::{self, Board, Errand, OPERATORS, Operator, Wish},
    reaping::Reaping,
    roots,
    storm::{Scene, Storm},
    stranger::{self, Orders},
    tap::Tap,
    tempo::Baton,
    trace::Trace,
    unrest::{self, Aim},
    workload::{Dial, Manner, Plan, Worker, final_pass},
};

/// A cluster must have started within this, in ms of simulated time.
const START_MS_MAX: u64 = 30_000;
/// All must be back within this after the end of the faults.
const BACK_MS_MAX: u64 = 30_000;
/// Then all must hold each other to be up within this.
const SEEN_MS_MAX: u64 = 10_000;
/// Changes of the layout must have ended within this after the faults, in ms.
const SETTLED_MS_MAX: u64 = 120_000;
/// Nodes that are there to be added, where the layout changes.
const SPARES: usize = 2;
/// Clients must have ended their last calls within this: a scan has many pages, each with a timeout of its own.
const STOPPED_MS_MAX: u64 = 60_000;
/// Then, without any client, all copies must have become equal within this: 60 s are due for 100,000 keys, and there are few.
const CONVERGED_MS_MAX: u64 = 60_000;
/// How often it is looked, in ms.
const CONVERGED_LOOK_MS: u64 = 500;
/// The final pass must be through within this.
const FINAL_MS_MAX: u64 = 600_000;
/// One tick of the simulation.
const TICK: Duration = Duration::from_millis(1);
/// Segments that a connection may have on its way.
const TCP_SEGMENTS: usize = 4096;

/// Settings of a run; `None` leaves it to the seed.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Deleted keys are reaped, whatever the seed.
    pub reap: bool,
    /// Number of nodes.
    pub nodes: Option<usize>,
    /// Number of clients.
    pub clients: Option<usize>,
    /// How long clients work and faults come, in ms.
    pub storm_ms: Option<u64>,
    /// No faults.
    pub calm: bool,
    /// Number of changes of the layout.
    pub changes: Option<usize>,
    /// One small change instead, and nothing else but light work.
    pub sweep: Option<Sweep>,
    /// A drill instead: what it does not leave open is its own.
    pub drill: Option<Drill>,
}

/// A run of a sweep: one change of a small cluster, in which one node ends at some boundary of a message.
#[derive(Debug, Clone, Copy)]
pub struct Sweep {
    /// [`Wish::Join`] or [`Wish::Leave`].
    pub wish: Wish,
    /// The boundary, counted from 1; `None` to count them.
    pub end_at: Option<u64>,
}

impl Sweep {
    /// Nodes that found the cluster, and spare ones.
    fn sizes(self) -> (usize, usize) {
        match self.wish {
            Wish::Join => (3, 1),
            _ => (4, 0),
        }
    }

    fn errand(self) -> Errand {
        Errand {
            at_ms: SWEEP_ERRAND_MS,
            wish: self.wish,
            operator: 0,
            seed: SWEEP_NODE,
        }
    }
}

/// When the change of a sweep is asked for, in ms after the beginning.
const SWEEP_ERRAND_MS: u64 = 500;
/// How long clients work in a sweep at least, in ms: the change takes less than that, and goes on after if it does not.
const SWEEP_MS: u64 = 3_000;
/// Which member goes.
const SWEEP_NODE: u64 = 3;
/// Pause between two calls of the client of a sweep, at most, in ms.
const SWEEP_PAUSE_MS: u64 = 60;

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Nodes.
    pub nodes: usize,
    /// How the seed set the run up, in words.
    pub settings: String,
    /// Simulated time, in ms.
    pub simulated_ms: u64,
    /// Calls that clients made.
    pub calls: u64,
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Calls that failed, by the kind of their error.
    pub errors: BTreeMap<String, u64>,
    /// Changes of the layout that were done.
    pub changes: Vec<Wish>,
    /// Faults that were done.
    pub faults: Vec<Kind>,
    /// Boundaries of messages that were counted, by call.
    pub boundaries: BTreeMap<&'static str, u64>,
    /// Rounds of reaping that were finished, of all partitions, as far as any member knows.
    pub rounds: u64,
    /// How long it took until all copies were equal, without clients, in ms of simulated time.
    pub converged_ms: u64,
    /// What is wrong; empty if all is well.
    pub wrong: Vec<String>,
}

/// Where panics are noted: those of tasks end nothing by themselves.
#[derive(Clone, Default)]
pub struct Panics(Arc<Mutex<Vec<String>>>);

impl Panics {
    /// Notes one.
    pub fn note(&self, words: String) {
        self.all().push(words);
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs one seed.
pub fn run(seed: u64, options: &Options, trace: Trace, panics: &Panics) -> Report {
    let mut chance = StdRng::seed_from_u64(seed);
    let latency = Duration::from_millis(chance.random_range(1..6));
    let mut sim = Builder::new()
        .epoch(UNIX_EPOCH + Duration::from_millis(EPOCH_MS))
        .simulation_duration(Duration::from_secs(100_000))
        .tick_duration(TICK)
        .min_message_latency(TICK)
        .max_message_latency(latency * 2)
        .tcp_capacity(TCP_SEGMENTS)
        .enable_random_order()
        .rng_seed(chance.random())
        .build();
    let mut run = Run::new(seed, options, &mut chance, &mut sim, latency, trace);
    let ended = run.phases(&mut sim, panics);
    let mut report = run.report(&sim);
    report.wrong.extend(ended.err());
    let panicked = panics
        .all()
        .iter()
        .map(|p| format!("a panic: {p}"))
        .collect::<Vec<_>>();
    report.wrong.extend(panicked);
    // Dropping hosts in the middle of things is a crash of all of them; nothing more is to be learnt from it.
    std::mem::forget(sim);
    report
}

struct Run {
    nodes: Vec<SimNode>,
    plan: Plan,
    storm_ms: u64,
    schedule: Vec<faults::Fault>,
    clients: Vec<String>,
    latency: Duration,
    orders: Orders,
    errands: Vec<Errand>,
    aims: Vec<Aim>,
    hushes: Vec<Range<u64>>,
    ambushes: Option<Vec<Ambush>>,
    tap: Option<Tap>,
    board: Board,
    storm: Option<Storm>,
    replicas: Vec<String>,
    converged_ms: u64,
}

impl Run {
    fn new(
        seed: u64,
        options: &Options,
        chance: &mut StdRng,
        sim: &mut Sim<'_>,
        latency: Duration,
        trace: Trace,
    ) -> Self {
        let most = [3, 3, 3, 4, 5, 5, 7, 9];
        let mut count = options
            .nodes
            .unwrap_or(most[chance.random_range(0..most.len())]);
        let mut clients = options.clients.unwrap_or(chance.random_range(1..=4));
        let mut storm_ms = options
            .storm_ms
            .unwrap_or(chance.random_range(4..10) * 1_000);
        let may_reap = options.sweep.is_none() && options.storm_ms.is_none();
        let script = options.drill.map(|drill| drill.script(seed));
        let own = script.as_ref().and_then(|script| script.reaping);
        let reaping = own.or_else(|| Reaping::of(seed, options.reap));
        let reaping = reaping.filter(|_| may_reap);
        if reaping.is_some() {
            storm_ms = Reaping::storm_ms(storm_ms);
        }
        let mut errands = operator::errands(seed, options.changes.unwrap_or(0), storm_ms);
        let mut spares = if errands.is_empty() { 0 } else { SPARES };
        if let Some(sweep) = options.sweep {
            (count, spares) = sweep.sizes();
            (clients, storm_ms) = (1, SWEEP_MS);
            errands = vec![sweep.errand()];
        }
        let tap = options.sweep.map(|sweep| Tap::new(sweep.end_at));
        let mut schedule = match options.calm || tap.is_some() || script.is_some() {
            true => Vec::new(),
            false => faults::schedule(seed, count + spares, storm_ms),
        };
        if let Some(script) = &script {
            (count, spares) = script.sizes;
            (clients, storm_ms) = (script.clients, script.storm_ms);
            errands = script.errands.clone();
        }
        // A lost disk is excused by the history, write by write; its node is repaired.
        let damaged = schedule.iter().any(|fault| fault.kind.damages());
        let sizes = (count + spares, count);
        let mut unrest = unrest::unrest(seed, sizes, storm_ms, &schedule, &errands);
        schedule.extend(&unrest.faults);
        if reaping.is_some() {
            Reaping::shorten(&mut schedule, &mut unrest.aims);
        }
        schedule.sort_by_key(|fault| fault.at_ms);
        errands.extend(unrest.excuse);
        errands.sort_by_key(|errand| errand.at_ms);
        let rots = |script: &Script| script.faults.iter().any(|f| f.kind == Kind::Rot);
        let damaged = damaged || script.as_ref().is_some_and(rots);
        let faults = script.iter().flat_map(|script| &script.faults);
        schedule.extend(faults);
        let nodes = cluster::start(
            sim,
            (count, spares),
            chance.random(),
            (tap.as_ref(), reaping),
            &trace,
        );
        let plan = Plan {
            dial: Dial::Simulated,
            endpoints: nodes.iter().map(|n| format!("{}:7400", n.name)).collect(),
            keys: match &script {
                Some(script) => script.keys,
                None => Reaping::keys(reaping, chance.random_range(3..20)),
            },
            copies: 3.min(count as u32),
            pause_ms: match (&tap, &script) {
                (Some(_), _) => SWEEP_PAUSE_MS,
                (_, Some(script)) => script.pause_ms,
                _ => chance.random_range(10..150),
            },
            manner: script.as_ref().map_or(Manner::Usual, |s| s.manner),
            baton: Baton::default(),
            begin: Arc::default(),
            stop: Arc::default(),
            working: Arc::default(),
            healed: Arc::default(),
            done: Arc::default(),
            damaged,
            history: History::new(trace),
        };
        let board = Board::new(errands.len());
        let operators = if errands.is_empty() { 0 } else { OPERATORS };
        let mut names = Vec::new();
        for number in 0..operators {
            let (plan, nodes, board) = (plan.clone(), nodes.clone(), board.clone());
            let seed = chance.random();
            let operator = Operator::new(plan, nodes, board, &errands, number, seed);
            let name = format!("o{number}");
            sim.client(name.as_str(), async move {
                operator.run().await;
                Ok(())
            });
            names.push(name);
        }
        for number in 0..clients {
            let name = format!("c{number}");
            let worker = Worker::new(plan.clone(), number, chance.random());
            sim.client(name.as_str(), async move {
                worker.run().await;
                Ok(())
            });
            names.push(name);
        }
        let orders = Orders::default();
        let (taken, history) = (orders.clone(), plan.history.clone());
        sim.client("stranger", async move {
            stranger::run(taken, history).await;
            Ok(())
        });
        let (pass, pass_seed) = (plan.clone(), chance.random());
        sim.client("judge", async move {
            final_pass(pass, pass_seed).await;
            Ok(())
        });
        Run {
            nodes,
            plan,
            storm_ms,
            schedule,
            clients: names,
            latency,
            orders,
            errands,
            aims: unrest.aims,
            hushes: script.as_ref().map_or_else(Vec::new, |s| s.hushes.clone()),
            ambushes: script.map(|script| script.ambushes),
            tap,
            board,
            storm: None,
            replicas: Vec::new(),
            converged_ms: 0,
        }
    }

    fn phases(&mut self, sim: &mut Sim<'_>, panics: &Panics) -> Result<(), String> {
        let steps =
            |run: &mut Run, sim: &mut Sim<'_>, most_ms: u64, done: &dyn Fn(&Run) -> bool| {
                run.steps(sim, most_ms, done, panics)
            };
        self.storm = Some(self.storm(Vec::new(), 0));
        steps(self, sim, START_MS_MAX, &Run::all_ready)?
            .then_some(())
            .ok_or("the cluster does not start")?;
        let now = now_ms(sim);
        self.say(format_args!(
            "{} nodes are ready: the storm begins",
            self.nodes.len()
        ));
        let storm = self.storm(self.schedule.clone(), now);
        let storm = storm.with_hushes(&self.hushes);
        let storm = match self.takes_nothing() {
            true => storm.with_copies(),
            false => storm,
        };
        self.storm = Some(match (self.ambushes.take(), self.errands.is_empty()) {
            (Some(ambushes), _) => storm.with_ambushes(ambushes),
            (None, true) => storm,
            (None, false) => storm.with_changes(std::mem::take(&mut self.aims), self.tap.clone()),
        });
        self.turn_tap(true);
        set(&self.plan.begin);
        steps(self, sim, self.storm_ms, &|_| false)?;

        self.say(format_args!("healing"));
        let mut storm = self.storm.take().expect("set above");
        storm.wrong.extend(self.invented());
        let now = now_ms(sim);
        storm.heal(sim, now);
        self.storm = Some(storm);
        // Clients go on while nodes come back.
        steps(self, sim, BACK_MS_MAX, &Run::all_ready)?
            .then_some(())
            .ok_or_else(|| format!("not all nodes are back: {}", self.absent()))?;
        steps(self, sim, SEEN_MS_MAX, &Run::all_see_all)?
            .then_some(())
            .ok_or_else(|| format!("not all hold each other to be up: {}", self.unseen()))?;
        steps(self, sim, SETTLED_MS_MAX, &|run| run.board.is_settled())?
            .then_some(())
            .ok_or_else(|| {
                format!(
                    "the layout does not come to rest: {}; absent: {}",
                    self.board.words(),
                    self.absent()
                )
            })?;
        self.turn_tap(false);
        steps(self, sim, BACK_MS_MAX, &Run::all_ready)?
            .then_some(())
            .ok_or_else(|| format!("not all members serve: {}", self.absent()))?;
        steps(self, sim, 1_000, &|_| false)?;
        set(&self.plan.stop);
        // A scan that is still under way would see what the final pass writes (seed 310).
        steps(self, sim, STOPPED_MS_MAX, &|run| {
            run.plan.working.load(Ordering::Relaxed) == 0
        })?
        .then_some(())
        .ok_or("a client does not stop")?;
        steps(self, sim, 3_000, &|_| false)?;
        self.converge(sim, panics)?;
        self.say(format_args!("the final pass"));
        set(&self.plan.healed);
        steps(self, sim, FINAL_MS_MAX, &|run| {
            run.plan.done.load(Ordering::Relaxed)
        })?
        .then_some(())
        .ok_or("the final pass does not end")?;
        // What was written last has reached all owners, too.
        self.converge(sim, panics)
    }

    /// What is not what somebody wrote, at nodes whose own disks are well while that of another rots.
    fn invented(&self) -> Vec<String> {
        let rots = self.schedule.iter().filter(|fault| fault.kind == Kind::Rot);
        let rots: Vec<usize> = rots.map(|fault| fault.node).collect();
        if rots.is_empty() {
            return Vec::new();
        }
        let well = self.nodes.iter().enumerate();
        let well = well.filter(|(node, _)| !rots.contains(node));
        let records = self.plan.history.records();
        checker::invented(well.map(|(_, node)| node), &records, self.plan.keys)
    }

    /// Whether nothing in this run may take from a copy what it holds, or give it what it has never held.
    fn takes_nothing(&self) -> bool {
        let faults = self.schedule.iter().map(|fault| fault.kind);
        let takes = |kind: Kind| kind.damages() || kind.ends_nodes();
        self.errands.is_empty() && self.tap.is_none() && !faults.into_iter().any(takes)
    }

    /// Nobody reads or writes: the nodes find and mend by themselves what differs (I5).
    fn converge(&mut self, sim: &mut Sim<'_>, panics: &Panics) -> Result<(), String> {
        let began_ms = now_ms(sim);
        self.say(format_args!("converging"));
        loop {
            let unequal = self.unequal();
            let took_ms = now_ms(sim) - began_ms;
            if unequal.is_empty() {
                self.converged_ms = self.converged_ms.max(took_ms);
                return Ok(());
            }
            if took_ms >= CONVERGED_MS_MAX {
                self.replicas = unequal;
                return Ok(());
            }
            self.steps(sim, CONVERGED_LOOK_MS, &|_| false, panics)?;
        }
    }

    /// In what the copies of the members differ, or what they still lack.
    fn unequal(&self) -> Vec<String> {
        let mut members = self.nodes.clone();
        members.retain(|node| node.role() == Role::Member);
        let mut unequal = checker::replicas(&members, self.plan.copies as usize);
        if unequal.is_empty() {
            unequal = roots::differing(&members);
        }
        unequal
    }

    /// Rounds of reaping that are finished, by the node that knows of most.
    fn rounds(&self) -> u64 {
        let stores = self.nodes.iter().filter_map(SimNode::store);
        let finished = stores.map(|store| store.generations().iter().map(|(_, _, f)| f).sum());
        finished.max().unwrap_or(0)
    }

    fn turn_tap(&self, on: bool) {
        if let Some(tap) = &self.tap {
            tap.turn(on);
        }
    }

    fn say(&self, words: std::fmt::Arguments<'_>) {
        self.plan.history.trace.line(words);
    }

    fn storm(&self, schedule: Vec<faults::Fault>, from_ms: u64) -> Storm {
        let scene = Scene {
            nodes: self.nodes.clone(),
            clients: self.clients.clone(),
            orders: self.orders.clone(),
            baton: self.plan.baton.clone(),
            normal_latency: self.latency,
            history: self.plan.history.clone(),
        };
        Storm::new(scene, schedule, from_ms)
    }

    fn all_ready(&self) -> bool {
        self.nodes.iter().all(SimNode::is_as_it_should)
    }

    fn all_see_all(&self) -> bool {
        self.unseen().is_empty()
    }

    /// Who does not hold whom to be up.
    fn unseen(&self) -> String {
        let members = || self.nodes.iter().filter(|n| n.role() == Role::Member);
        let pairs = members().flat_map(|by| members().map(move |on| (by, on)));
        let unseen = pairs.filter(|(by, on)| by.name != on.name && by.sees(on) != Some(true));
        let words = unseen.map(|(by, on)| format!("{} of {}", by.name, on.name));
        words.collect::<Vec<_>>().join(", ")
    }

    fn absent(&self) -> String {
        let absent = self.nodes.iter().filter(|node| !node.is_as_it_should());
        let words = absent.map(|node| format!("{} ({:?})", node.name, node.ended()));
        words.collect::<Vec<_>>().join(", ")
    }

    /// Goes on until `done` or for `most_ms`; says whether it was done.
    fn steps(
        &mut self,
        sim: &mut Sim<'_>,
        most_ms: u64,
        done: &dyn Fn(&Run) -> bool,
        panics: &Panics,
    ) -> Result<bool, String> {
        let end_ms = now_ms(sim) + most_ms;
        while now_ms(sim) < end_ms {
            if done(self) {
                return Ok(true);
            }
            let now_ms = now_ms(sim);
            if let Some(storm) = &mut self.storm {
                storm.step(sim, now_ms);
            }
            set_now(sim.elapsed());
            sim.step()
                .map_err(|error| format!("a host failed: {error}"))?;
            if !panics.all().is_empty() {
                return Err("stopped at a panic".to_owned());
            }
        }
        Ok(done(self))
    }

    fn settings(&self) -> String {
        let faults: Vec<String> = self
            .schedule
            .iter()
            .map(|f| format!("{:?} of n{} at {} ms", f.kind, f.node, f.at_ms))
            .collect();
        let changes: Vec<String> = self
            .errands
            .iter()
            .map(|e| format!("{:?} at {} ms", e.wish, e.at_ms))
            .collect();
        format!(
            "{} nodes, {} clients, {} keys, a storm of {} ms, disk steps of {:?} ms, links of up to {:?}, faults: [{}], changes: [{}]",
            self.nodes.len(),
            self.clients.len(),
            self.plan.keys,
            self.storm_ms,
            self.nodes
                .iter()
                .map(|n| n.medium.usual_step_ms())
                .collect::<Vec<_>>(),
            self.latency * 2,
            faults.join(", "),
            changes.join(", "),
        )
    }

    fn report(&self, sim: &Sim<'_>) -> Report {
        let records = self.plan.history.records();
        let mut wrong = records.wrong.clone();
        wrong.extend(checker::judge(
            &records,
            self.plan.copies,
            self.plan.damaged,
        ));
        wrong.extend(self.replicas.iter().cloned());
        let storm = self.storm.as_ref();
        let calm = storm.is_none_or(|storm| storm.done.is_empty()) && self.schedule.is_empty();
        if calm && !records.errors.is_empty() {
            let errors = &records.errors;
            wrong.push(format!(
                "calls failed though there was no fault: {errors:?}"
            ));
        }
        wrong.extend(storm.iter().flat_map(|storm| storm.wrong.iter().cloned()));
        let faults = storm.map(|storm| storm.done.iter().map(|f| f.kind).collect());
        Report {
            nodes: self.nodes.len(),
            settings: self.settings(),
            simulated_ms: now_ms(sim),
            calls: records.calls,
            acked: checker::acked(&records),
            errors: records.errors.clone(),
            changes: self.board.done(),
            faults: faults.unwrap_or_default(),
            boundaries: self.tap.as_ref().map(Tap::counted).unwrap_or_default(),
            rounds: self.rounds(),
            converged_ms: self.converged_ms,
            wrong,
        }
    }
}

fn now_ms(sim: &Sim<'_>) -> u64 {
    sim.elapsed().as_millis() as u64
}

fn set(flag: &AtomicBool) {
    flag.store(true, Ordering::Relaxed);
}
