//! Does the faults of a schedule to a running simulation, ends them, and starts nodes again that have ended.

use std::{ops::Range, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use ringfort_storage::disk::{Disk, sim::Fault as DiskFault};
use turmoil::Sim;

use super::{
    ambush::Ambush,
    cluster::{Fate, Role, SimNode},
    copies::Copies,
    faults::{Fault, Kind},
    history::History,
    restore::Restores,
    rot,
    stranger::{Order, Orders},
    tap::Tap,
    tempo::{Baton, Score, Tempo},
    unrest::Aim,
    words::Words,
};

/// A node that ended by itself comes back after this, in ms.
const RESTART_MS: u64 = 300;
/// Room that a full disk has left at most, in bytes: from above both floors of free space to next to nothing.
const FULL_LEFT_BYTES: u64 = 3 << 20;

/// Effects on disk and engine that a start has before a second power cut, at most: a start has a dozen or so, and a few cuts fall later.
const START_EFFECTS_MAX: u64 = 24;

/// A node that ended at a boundary of its messages is away for so long, in ms: the others see that it is down.
const BOUNDARY_AWAY_MS: u64 = 1_500;

/// A step of a disk that is about to fail takes this long, in ms.
const WORN_STEP_MS: u64 = 100;

/// The stranger writes to one of the first few keys, which every run has.
const STRANGE_KEYS: u64 = 3;

/// Who faults happen to.
#[derive(Clone)]
pub struct Scene {
    /// The nodes.
    pub nodes: Vec<SimNode>,
    /// Names of the clients' hosts.
    pub clients: Vec<String>,
    /// For the stranger.
    pub orders: Orders,
    /// How fast clients work.
    pub baton: Baton,
    /// How slow links usually are.
    pub normal_latency: Duration,
    /// Where all is noted.
    pub history: History,
}

/// Something to be undone, at a time in ms.
struct Undo {
    at_ms: u64,
    fault: Fault,
}

/// The faults that are to come, and those that last.
pub struct Storm {
    scene: Scene,
    coming: Vec<Fault>,
    restores: Restores,
    lasting: Vec<Undo>,
    /// When each node that is down comes back, in ms.
    back_at_ms: Vec<Option<u64>>,
    /// What decides when the power goes out again after the next start of a node.
    cut_at_start: Vec<Option<u64>>,
    /// Nodes whose disks are to rot when they have stopped, with what decides how.
    rots_at_stop: Vec<Option<u64>>,
    /// Whether some fault of the schedule may make nodes end by themselves.
    may_end: bool,
    score: Score,
    /// What stores say of layouts, where these change, and the faults that wait for it.
    words: Option<Words>,
    aims: Vec<Aim>,
    from_ms: u64,
    /// Faults that wait for a moment of a change.
    ambushes: Vec<Ambush>,
    /// Ends a node at a boundary of its messages.
    tap: Option<Tap>,
    /// Judges that copies go on counting, where nothing takes that from them.
    copies: Option<Copies>,
    /// Faults that were done.
    pub done: Vec<Fault>,
    /// How nodes ended by themselves in ways that no fault explains.
    pub wrong: Vec<String>,
}

impl Storm {
    /// Times in `schedule` count from `from_ms`.
    pub fn new(scene: Scene, schedule: Vec<Fault>, from_ms: u64) -> Self {
        let nodes = scene.nodes.len();
        let may_end = schedule.iter().any(|fault| fault.kind.ends_nodes());
        let mut coming: Vec<Fault> = schedule
            .into_iter()
            .map(|fault| Fault {
                at_ms: fault.at_ms + from_ms,
                ..fault
            })
            .collect();
        let score = Score::of(&coming);
        coming.reverse();
        Storm {
            back_at_ms: vec![None; nodes],
            cut_at_start: vec![None; nodes],
            rots_at_stop: vec![None; nodes],
            may_end,
            restores: Restores::new(nodes),
            scene,
            coming,
            lasting: Vec::new(),
            score,
            words: None,
            aims: Vec::new(),
            from_ms,
            ambushes: Vec::new(),
            tap: None,
            copies: None,
            done: Vec::new(),
            wrong: Vec::new(),
        }
    }

    /// Looks at what stores say of layouts, and strikes then.
    #[must_use]
    pub fn with_changes(self, aims: Vec<Aim>, tap: Option<Tap>) -> Self {
        Storm {
            words: Some(Words::default()),
            aims,
            tap,
            ..self
        }
    }

    /// Looks at what stores say of layouts, and strikes at moments of it.
    #[must_use]
    pub fn with_ambushes(self, ambushes: Vec<Ambush>) -> Self {
        Storm {
            words: Some(Words::default()),
            ambushes,
            ..self
        }
    }

    /// Clients wait at these times, in ms after the storm began.
    #[must_use]
    pub fn with_hushes(mut self, hushes: &[Range<u64>]) -> Self {
        let from_ms = self.from_ms;
        let hushes = hushes.iter();
        let hushes = hushes.map(|span| span.start + from_ms..span.end + from_ms);
        self.score = self.score.with_hushes(hushes);
        self
    }

    /// Judges that copies go on counting: nothing in the run takes that from them.
    #[must_use]
    pub fn with_copies(self) -> Self {
        Storm {
            copies: Some(Copies::default()),
            ..self
        }
    }

    /// To be called before each step of the simulation.
    pub fn step(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        // While a node asks the others what it has forgotten, they are left in peace.
        let may_begin = !self.restores.is_asking(&self.scene.nodes);
        while may_begin && self.coming.last().is_some_and(|f| f.at_ms <= now_ms) {
            let fault = self.coming.pop().expect("there is a last one");
            self.scene
                .history
                .trace
                .line(format_args!("fault {fault:?}"));
            self.begin(sim, fault, now_ms);
            if fault.kind != Kind::Restore && !fault.aids {
                self.done.push(fault);
            }
        }
        for fault in &self.coming {
            let worn = fault.at_ms.saturating_sub(fault.worn_ms)..fault.at_ms;
            if fault.kind == Kind::Crash && worn.contains(&now_ms) {
                self.scene.nodes[fault.node]
                    .medium
                    .set_step_ms(WORN_STEP_MS);
            }
        }
        self.scene.baton.set(self.score.at(now_ms));
        let (over, lasting) = std::mem::take(&mut self.lasting)
            .into_iter()
            .partition(|undo| undo.at_ms <= now_ms);
        self.lasting = lasting;
        for undo in over {
            self.undo(sim, undo.fault);
        }
        if let Some(words) = &mut self.words {
            let spoke = words.look(&self.scene.nodes, &mut self.wrong);
            let since_ms = now_ms.saturating_sub(self.from_ms);
            let mut due = aimed(&mut self.aims, &spoke, since_ms);
            self.ambushes.retain_mut(|ambush| {
                let strikes = ambush.due(since_ms, words, &spoke, &self.scene.nodes);
                due.extend(&strikes);
                strikes.is_empty()
            });
            for fault in due {
                let trace = &self.scene.history.trace;
                trace.line(format_args!("aimed fault {fault:?}"));
                self.begin(sim, fault, now_ms);
                if !fault.aids {
                    self.done.push(fault);
                }
            }
        }
        if let Some(copies) = &mut self.copies {
            for (i, node) in self.scene.nodes.iter().enumerate() {
                if let Some(store) = node.store() {
                    let now = store.identity().current();
                    self.wrong.extend(copies.look(i, &node.name, now));
                }
            }
        }
        if let Some(node) = self.tap.as_ref().and_then(Tap::take_ended) {
            self.end_at_boundary(sim, &node, now_ms);
        }
        self.tend(sim, now_ms);
        self.restore(sim, now_ms);
    }

    /// A node loses power where a message of its was about to be.
    fn end_at_boundary(&mut self, sim: &mut Sim<'_>, name: &str, now_ms: u64) {
        let found = self.scene.nodes.iter().position(|node| node.name == name);
        let node = found.expect("a tap of a node of ours");
        let fault = Fault {
            kind: Kind::Crash,
            at_ms: now_ms,
            for_ms: BOUNDARY_AWAY_MS,
            worn_ms: 0,
            aids: false,
            node,
            other: node,
            seed: now_ms,
        };
        let trace = &self.scene.history.trace;
        trace.line(format_args!("fault at a boundary {fault:?}"));
        self.begin(sim, fault, now_ms);
        self.done.push(fault);
    }

    /// Stops a node to take an image of its disk, and puts an older one back where that is due, and the others can tell what is
    /// missing.
    fn restore(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        self.restores.take(&self.scene.nodes);
        let is_calm = !self
            .lasting
            .iter()
            .any(|undo| undo.fault.kind.is_of_network());
        let Some((fault, image)) = self.restores.due(&self.scene.nodes, is_calm, now_ms) else {
            return;
        };
        let name = &self.scene.nodes[fault.node].name;
        self.scene
            .history
            .trace
            .line(format_args!("an older image is put back on {name}"));
        self.scene.nodes[fault.node].medium.restore(&image);
        self.down(sim, fault, now_ms);
        self.back_at_ms[fault.node] = Some(now_ms + RESTART_MS);
        self.done.push(fault);
    }

    /// Ends all faults; nodes that are down come back.
    pub fn heal(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        self.coming.clear();
        self.aims.clear();
        self.ambushes.clear();
        self.restores.clear();
        self.score = Score::default();
        self.scene.baton.set(Tempo::Usual);
        for node in &self.scene.nodes {
            node.medium.set_step_ms(0);
        }
        for undo in std::mem::take(&mut self.lasting) {
            self.undo(sim, undo.fault);
        }
        let everybody = self.everybody();
        for (i, a) in everybody.iter().enumerate() {
            for b in &everybody[i + 1..] {
                sim.release(a.as_str(), b.as_str());
                sim.repair(a.as_str(), b.as_str());
            }
        }
        self.cut_at_start.fill(None);
        self.rots_at_stop.fill(None);
        for node in &self.scene.nodes {
            node.medium.disk.keep_power();
            // One that waits for a write or a sync may otherwise strike long after the end (seed 2828).
            node.medium.disk.forget_faults();
        }
        for back in self.back_at_ms.iter_mut().flatten() {
            *back = now_ms;
        }
    }

    /// Starts nodes whose time has come, and notes those that ended.
    fn tend(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        for i in 0..self.scene.nodes.len() {
            let node = self.scene.nodes[i].clone();
            match node.fate() {
                Fate::Usual => {}
                Fate::Off => {
                    if node.starts() > 0 && self.back_at_ms[i] != Some(u64::MAX) {
                        self.scene
                            .history
                            .trace
                            .line(format_args!("{} goes off", node.name));
                        self.scene.history.lose_disk(i);
                        node.medium.crash(now_ms);
                        self.end(sim, i, now_ms, u64::MAX);
                    }
                    continue;
                }
                Fate::Renewed => {
                    node.set_fate(Fate::Usual);
                    node.medium.lose(now_ms);
                    self.back_at_ms[i] = Some(now_ms);
                }
            }
            match self.back_at_ms[i] {
                Some(at_ms) if at_ms <= now_ms => {
                    self.back_at_ms[i] = None;
                    node.medium.kill(now_ms);
                    if let Some(seed) = self.cut_at_start[i].take() {
                        node.medium.disk.cut_after(seed % START_EFFECTS_MAX);
                    }
                    node.forget();
                    let trace = &self.scene.history.trace;
                    trace.line(format_args!("{} starts again", node.name));
                    sim.bounce(node.name.as_str());
                }
                Some(_) => {}
                None => self.look(sim, i, now_ms),
            }
        }
    }

    /// Whether a node that should run has ended, or has no power.
    fn look(&mut self, sim: &mut Sim<'_>, i: usize, now_ms: u64) {
        let node = self.scene.nodes[i].clone();
        if node.medium.disk.is_cut() {
            let trace = &self.scene.history.trace;
            let phase = if node.store().is_some() {
                "after"
            } else {
                "in"
            };
            trace.line(format_args!(
                "{} loses power {phase} its recovery",
                node.name
            ));
            node.medium.crash(now_ms);
            return self.end(sim, i, now_ms, now_ms + RESTART_MS);
        }
        let Some(ended) = node.ended() else { return };
        if node.role() == Role::Gone {
            return;
        }
        self.restores.ended(i, &node, now_ms);
        if let Some(seed) = self.rots_at_stop[i].take() {
            rot::flip(&self.scene.history.trace, &node, seed);
        }
        self.back_at_ms[i] = Some(now_ms + RESTART_MS);
        if let Err(why) = ended {
            self.scene.history.lose(i);
            if !self.may_end {
                let wrong = format!("{} ended, which no fault explains: {why}", node.name);
                self.wrong.push(wrong);
            }
        }
    }

    fn everybody(&self) -> Vec<String> {
        let nodes = self.scene.nodes.iter().map(|node| node.name.clone());
        nodes.chain(self.scene.clients.iter().cloned()).collect()
    }

    fn others(&self, node: usize) -> Vec<String> {
        let name = &self.scene.nodes[node].name;
        self.everybody().into_iter().filter(|o| o != name).collect()
    }

    fn down(&mut self, sim: &mut Sim<'_>, fault: Fault, now_ms: u64) {
        self.end(sim, fault.node, now_ms, now_ms + fault.for_ms);
    }

    /// Ends a node at once, until then.
    fn end(&mut self, sim: &mut Sim<'_>, node: usize, now_ms: u64, back_at_ms: u64) {
        self.restores.went_down(node, now_ms);
        sim.crash(self.scene.nodes[node].name.as_str());
        self.scene.nodes[node].forget();
        self.scene.history.lose(node);
        self.back_at_ms[node] = Some(back_at_ms);
    }

    fn begin(&mut self, sim: &mut Sim<'_>, fault: Fault, now_ms: u64) {
        let node = self.scene.nodes[fault.node].clone();
        let name = node.name.as_str();
        match fault.kind {
            Kind::Crash => {
                node.medium.crash(fault.seed);
                node.medium.set_step_ms(0);
                self.down(sim, fault, now_ms);
            }
            Kind::CutRecovery => {
                node.medium.crash(fault.seed);
                self.down(sim, fault, now_ms);
                self.cut_at_start[fault.node] = Some(fault.seed);
            }
            Kind::Blackout => {
                for node in 0..self.scene.nodes.len() {
                    let seed = fault.seed.rotate_left(node as u32);
                    self.scene.nodes[node].medium.crash(seed);
                    // Machines do not take equally long to come back.
                    let for_ms = fault.for_ms / 2 + seed % 500;
                    let fault = Fault {
                        node,
                        for_ms,
                        ..fault
                    };
                    self.down(sim, fault, now_ms);
                }
            }
            Kind::Kill => {
                node.medium.kill(fault.seed);
                self.down(sim, fault, now_ms);
            }
            Kind::LoseDisk => {
                self.down(sim, fault, now_ms);
                node.medium.lose(fault.seed);
                self.scene.history.lose_disk(fault.node);
            }
            Kind::Move => {
                node.medium.kill(fault.seed);
                node.move_on();
                self.down(sim, fault, now_ms);
            }
            Kind::Restart => node.stop(),
            Kind::Partition | Kind::Split => {
                let (near, far) = self.halves(&fault);
                for (a, b) in pairs(&near, &far) {
                    sim.partition(a, b);
                }
            }
            Kind::OneWay => {
                for other in self.others(fault.node) {
                    sim.partition_oneway(name, other.as_str());
                }
            }
            Kind::Hold => sim.hold(name, self.scene.nodes[fault.other].name.as_str()),
            Kind::Cut => sim.partition(name, self.scene.nodes[fault.other].name.as_str()),
            Kind::Pause => {
                for other in self.others(fault.node) {
                    sim.hold(name, other.as_str());
                }
            }
            Kind::Delay => {
                let slow = Duration::from_millis(50 + fault.seed % 400);
                for other in self.others(fault.node) {
                    sim.set_link_latency(name, other.as_str(), slow);
                }
            }
            Kind::SlowDisk => node.medium.set_step_ms(5 + fault.seed % 200),
            Kind::FailDisk => node
                .medium
                .disk
                .inject(fault.seed % 20, failure(fault.seed)),
            Kind::FullDisk => {
                let disk = &node.medium.disk;
                if let Ok(space) = disk.space() {
                    let used = space.total_bytes.saturating_sub(space.free_bytes);
                    disk.set_capacity(used + fault.seed % FULL_LEFT_BYTES);
                }
            }
            Kind::FailEngine => node.medium.engine.fail(),
            // Half of the time after a clean stop: then the log holds nothing that would write the rotten rows anew.
            Kind::BitFlip if fault.seed.is_multiple_of(2) && node.is_ready() => {
                self.rots_at_stop[fault.node] = Some(fault.seed);
                node.stop();
            }
            Kind::Rot => rot::rot(
                &self.scene.history.trace,
                &node,
                &mut StdRng::seed_from_u64(fault.seed),
            ),
            Kind::BitFlip => {
                rot::flip(&self.scene.history.trace, &node, fault.seed);
                node.medium.kill(fault.seed);
                self.down(sim, fault, now_ms);
            }
            Kind::ClockJump => {
                let hours = (fault.seed % 49) as i64 - 24;
                let offset_ms = hours * 3_600_000 + (fault.seed % 100_000) as i64;
                node.medium.clock.set_wall_offset_ms(offset_ms);
                self.scene.history.set_clock(fault.node, offset_ms);
            }
            // It stops as soon as nobody is away, who would have forgotten what to tell it.
            Kind::Restore => self.restores.wanted(fault),
            Kind::Stranger => self.scene.orders.give(Order {
                node: node.name.clone(),
                key: (fault.seed % STRANGE_KEYS) as usize,
                seed: fault.seed,
            }),
        }
        self.lasting.push(Undo {
            at_ms: now_ms + fault.for_ms,
            fault,
        });
    }

    fn undo(&mut self, sim: &mut Sim<'_>, fault: Fault) {
        let node = &self.scene.nodes[fault.node];
        let name = node.name.as_str();
        match fault.kind {
            Kind::Partition | Kind::Split => {
                let (near, far) = self.halves(&fault);
                for (a, b) in pairs(&near, &far) {
                    sim.repair(a, b);
                }
            }
            Kind::OneWay => {
                for other in self.others(fault.node) {
                    sim.repair_oneway(name, other.as_str());
                }
            }
            Kind::Hold => sim.release(name, self.scene.nodes[fault.other].name.as_str()),
            Kind::Cut => sim.repair(name, self.scene.nodes[fault.other].name.as_str()),
            Kind::Pause => {
                for other in self.others(fault.node) {
                    sim.release(name, other.as_str());
                }
            }
            Kind::Delay => {
                for other in self.others(fault.node) {
                    sim.set_link_latency(name, other.as_str(), self.scene.normal_latency);
                }
            }
            Kind::SlowDisk => node.medium.set_step_ms(0),
            Kind::FullDisk => node.medium.disk.set_capacity(u64::MAX),
            Kind::FailEngine => node.medium.engine.mend(),
            Kind::Crash
            | Kind::Blackout
            | Kind::CutRecovery
            | Kind::Kill
            | Kind::Restart
            | Kind::FailDisk
            | Kind::BitFlip
            | Kind::ClockJump
            | Kind::Restore
            | Kind::LoseDisk
            | Kind::Move
            | Kind::Rot
            | Kind::Stranger => {}
        }
    }

    /// Everybody in two halves, with nodes in both; for even seeds the fault's node is the only one of its half.
    fn halves(&self, fault: &Fault) -> (Vec<String>, Vec<String>) {
        if fault.kind == Kind::Split {
            return self.sides(fault);
        }
        let mut chance = StdRng::seed_from_u64(fault.seed);
        let mut names: Vec<String> = self.scene.nodes.iter().map(|n| n.name.clone()).collect();
        let mut far = if fault.seed.is_multiple_of(2) {
            vec![names.remove(fault.node)]
        } else {
            names.shuffle(&mut chance);
            let cut = chance.random_range(1..names.len());
            names.split_off(cut)
        };
        for client in &self.scene.clients {
            let side = if chance.random() {
                &mut names
            } else {
                &mut far
            };
            side.push(client.clone());
        }
        (names, far)
    }

    /// The sides of a [`Kind::Split`]. Some clients reach both.
    fn sides(&self, fault: &Fault) -> (Vec<String>, Vec<String>) {
        let mut chance = StdRng::seed_from_u64(fault.seed ^ (fault.for_ms << 32));
        let nodes = self.scene.nodes.iter().map(|node| node.name.clone());
        let (near, far): (Vec<_>, Vec<_>) = nodes
            .enumerate()
            .partition(|(node, _)| fault.seed >> node & 1 == 1);
        let [mut near, mut far] = [near, far].map(|side: Vec<(usize, String)>| {
            side.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        });
        for client in &self.scene.clients {
            match chance.random_range(0..3) {
                0 => near.push(client.clone()),
                1 => far.push(client.clone()),
                _ => {}
            }
        }
        (near, far)
    }
}

/// The faults whose words have been said, now that these nodes spoke; `since_ms` the storm began.
fn aimed(aims: &mut Vec<Aim>, spoke: &[usize], since_ms: u64) -> Vec<Fault> {
    let mut due = Vec::new();
    for &node in spoke {
        aims.retain_mut(|aim| {
            if aim.fault.at_ms > since_ms {
                return true;
            }
            let is_due = aim.words == 0;
            aim.words = aim.words.saturating_sub(1);
            let Fault {
                node: own, other, ..
            } = aim.fault;
            let (node, other) = match aim.at_speaker {
                true if node == other => (node, own),
                true => (node, other),
                false => (own, other),
            };
            if is_due {
                due.push(Fault {
                    node,
                    other,
                    ..aim.fault
                });
            }
            !is_due
        });
    }
    due
}

fn failure(seed: u64) -> DiskFault {
    match seed % 3 {
        0 => DiskFault::WriteFails,
        1 => DiskFault::WriteTorn,
        _ => DiskFault::SyncFails,
    }
}

fn pairs<'a>(near: &'a [String], far: &'a [String]) -> Vec<(&'a str, &'a str)> {
    near.iter()
        .flat_map(|a| far.iter().map(move |b| (a.as_str(), b.as_str())))
        .collect()
}
