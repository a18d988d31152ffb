//! Faults that lie in wait for a round of reaping, or for what stores say of a change of the layout: they strike in the tick after some number of stores has made
//! a vote, a decree or a tracker durable, before anybody has heard of it, as what a partition finds on its way is lost.

use ringfort_ring::{Decree, Epoch, consensus::Promises};

use super::{
    cluster::SimNode,
    faults::{Fault, Kind},
    words::Words,
};

/// What is waited for, of the first change after the ambush was laid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A store has promised to vote for no lower ballot.
    Promised,
    /// A store has voted.
    Accepted,
    /// A store keeps the decree.
    Decreed,
    /// A store writes by the new layout.
    Acked,
    /// A store has received all that the new layout gives it.
    Merged,
    /// A store reads from the new layout.
    Flipped,
    /// A store keeps a decree that lists a store which was not listed before.
    Listed,
    /// A store has begun a round of reaping that the fault's own node has no part in yet, of which something is not durable.
    Reaping,
}

/// Who is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The node that spoke last.
    Speaker,
    /// All nodes that have said it: they are cut off from the others together.
    Said,
    /// The same, and the nodes whose bits the fault's seed has.
    SaidOr,
    /// All the others.
    Silent,
    /// Nodes by chance, decided by the fault's seed.
    Some,
    /// The fault's own node.
    Own,
}

/// One thing that is done then.
#[derive(Debug, Clone, Copy)]
pub struct Strike {
    /// To whom.
    pub who: Who,
    /// What. Its time counts from the moment, and its node is chosen by `who`.
    pub fault: Fault,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Ambush {
    /// From when on it waits, in ms after the storm began.
    pub from_ms: u64,
    /// For what.
    pub moment: Moment,
    /// How many stores have to have said so.
    pub count: usize,
    /// What is done then.
    pub strikes: Vec<Strike>,
    /// The newest epoch, and the epoch of the newest layout, when it began to wait.
    base: Option<(Epoch, Epoch)>,
}

impl Ambush {
    /// One that is yet to be laid.
    pub fn new(from_ms: u64, moment: Moment, count: usize, strikes: Vec<Strike>) -> Ambush {
        Ambush {
            from_ms,
            moment,
            count,
            strikes,
            base: None,
        }
    }

    /// The faults to be done now, with times in ms from now on; `spoke`: the node that was heard last. Nothing before its moment.
    pub fn due(
        &mut self,
        since_ms: u64,
        words: &Words,
        spoke: &[usize],
        nodes: &[SimNode],
    ) -> Vec<Fault> {
        if self.moment == Moment::Reaping {
            let strikes = self.strikes.iter().map(|strike| strike.fault);
            let is_due = |fault: &Fault| since_ms >= self.from_ms && is_behind(fault.node, nodes);
            return strikes.filter(is_due).collect();
        }
        let Some(newest) = words.newest() else {
            return Vec::new();
        };
        if since_ms < self.from_ms {
            return Vec::new();
        }
        let now = (newest.epoch(), newest.newest().epoch());
        let base = *self.base.get_or_insert(now);
        let is_said = |kept: Option<&Promises>| kept.is_some_and(|kept| self.is_said(kept, base));
        let said: Vec<bool> = words.kept().map(is_said).collect();
        let speaker = spoke.iter().copied().rfind(|node| said[*node]);
        let Some(speaker) = speaker.filter(|_| count(&said) >= self.count.max(1)) else {
            return Vec::new();
        };
        let strikes = self.strikes.iter();
        strikes.flat_map(|s| s.faults(speaker, &said)).collect()
    }

    fn is_said(&self, kept: &Promises, (epoch, layout): (Epoch, Epoch)) -> bool {
        let (decree, votes, trackers) = (&kept.decree, &kept.votes, kept.trackers);
        let is_next = votes.instance == epoch.next() || decree.epoch() > epoch;
        match self.moment {
            Moment::Promised => is_next && votes.promised.round > 0 || decree.epoch() > epoch,
            Moment::Accepted => is_next && votes.accepted.is_some() || decree.epoch() > epoch,
            Moment::Decreed => decree.epoch() > epoch,
            Moment::Acked => trackers.ack > layout,
            Moment::Merged => trackers.merged > layout,
            Moment::Flipped => trackers.flipped > layout,
            Moment::Listed => decree.epoch() > epoch && is_amended(decree, layout),
            // Nothing of layouts.
            Moment::Reaping => false,
        }
    }
}

/// Whether a node has not come to a round of reaping that another has begun, while its log is not durable to its end.
fn is_behind(node: usize, nodes: &[SimNode]) -> bool {
    let Some(own) = nodes[node].store() else {
        return false;
    };
    let stats = own.stats();
    if stats.durable_sequence >= stats.last_sequence {
        return false;
    }
    let others = nodes.iter().enumerate().filter(|(other, _)| *other != node);
    let others = others.filter_map(|(_, other)| other.store());
    let mut begun = others.flat_map(|store| {
        let lists = store.partitions_reaping().into_iter();
        let lists = lists.filter_map(move |p| Some((p, store.reaping(p)?.generation)));
        lists.collect::<Vec<_>>()
    });
    begun.any(|(partition, generation)| own.generation(partition) < generation)
}

/// Whether a decree has come without a new layout: what it changes is who is at which store.
fn is_amended(decree: &Decree, layout: Epoch) -> bool {
    decree.newest().epoch() == layout
}

impl Strike {
    fn faults(&self, speaker: usize, said: &[bool]) -> Vec<Fault> {
        let nodes = 0..said.len();
        let seed = self.fault.seed;
        let chosen: Vec<usize> = match self.who {
            Who::Speaker => vec![speaker],
            Who::Said => nodes.filter(|node| said[*node]).collect(),
            Who::SaidOr => nodes
                .filter(|node| said[*node] || seed >> node & 1 == 1)
                .collect(),
            Who::Silent => nodes.filter(|node| !said[*node]).collect(),
            Who::Some => nodes.filter(|node| seed >> node & 1 == 1).collect(),
            Who::Own => vec![self.fault.node],
        };
        if self.fault.kind == Kind::Split {
            return vec![Fault {
                seed: mask(&chosen),
                ..self.fault
            }];
        }
        let other = |node: usize| match node == self.fault.other {
            true => self.fault.node,
            false => self.fault.other,
        };
        let each = chosen.into_iter().map(|node| Fault {
            node,
            other: other(node),
            seed: seed.rotate_left(node as u32),
            ..self.fault
        });
        each.collect()
    }
}

/// The nodes as bits: who is on one side of a [`Kind::Split`].
pub fn mask(nodes: &[usize]) -> u64 {
    nodes.iter().fold(0, |mask, node| mask | 1 << node)
}

fn count(said: &[bool]) -> usize {
    said.iter().filter(|said| **said).count()
}
