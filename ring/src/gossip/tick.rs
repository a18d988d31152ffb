//! The beat of gossip: raises the heartbeat, suspects, judges, and says whom to talk to.

use super::{
    Change, Gossip,
    entry::{Beat, Topic, Value},
    message::Message,
    node::Standing,
    rumour::Rumour,
};
use crate::id::StoreId;

/// One in so many ticks talks to a seed or a node that is down, so that what fell apart finds together again.
const ASTRAY_EVERY: u64 = 4;

/// Whom to talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A known node; [`Gossip::listing`] has its address, if it ever told one.
    Node(StoreId),
    /// The seed of that number, from 0.
    Seed(usize),
}

/// A digest to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// Whom to send the message.
    pub targets: Vec<Target>,
    /// The same for all.
    pub message: Message,
}

/// What a tick asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// To be sent.
    pub spread: Spread,
    /// To be sent at once, too: see [`super::Received::hurry`].
    pub hurry: Option<Spread>,
    /// What came to be different.
    pub changes: Vec<Change>,
}

impl Gossip {
    /// Time for another heartbeat. There are `seeds` addresses of seeds.
    pub fn tick(&mut self, now_ms: u64, seeds: usize) -> Tick {
        self.wake(now_ms);
        self.nodes.retain(|node| !node.is_forgotten(now_ms));
        let mut rumour = Rumour::default();
        if self.suspect(now_ms) {
            self.hear_opinions([self.me], &mut rumour);
        }
        let me = self.mine();
        if !self.has_left {
            let beat = &mut self.nodes[me].beat;
            beat.counter = beat.counter.saturating_add(1);
        }
        let mut changes = Vec::new();
        self.judge(&mut changes);
        Tick {
            hurry: self.pass_on(rumour),
            spread: Spread {
                targets: self.targets(now_ms, seeds),
                message: Message::Digest(self.digest(now_ms)),
            },
            changes,
        }
    }

    /// Says to some others that this node is gone. Its heartbeat rises no more in this life, so that nothing refutes that.
    pub fn leave(&mut self, now_ms: u64) -> Spread {
        self.write(Topic::GOODBYE, Value::number(1));
        self.has_left = true;
        Spread {
            targets: self.near(self.settings.fanout),
            message: Message::Digest(self.digest(now_ms)),
        }
    }

    /// Some that are up, by chance.
    pub(super) fn near(&mut self, fanout: usize) -> Vec<Target> {
        let mut near: Vec<Target> = self
            .nodes
            .iter()
            .filter(|node| node.beat.store != self.me && node.standing == Standing::Up)
            .map(|node| Target::Node(node.beat.store))
            .collect();
        let picked = self.draw.bring_forward(&mut near, fanout);
        near.truncate(picked);
        near
    }

    /// All heartbeats that others are told.
    fn digest(&self, now_ms: u64) -> Vec<Beat> {
        let told = self.nodes.iter().filter(|node| node.is_told(now_ms));
        told.map(|node| node.beat).collect()
    }

    /// Some that are there, by chance, and now and then one that is not.
    fn targets(&mut self, now_ms: u64, seeds: usize) -> Vec<Target> {
        let mut near = Vec::new();
        let mut astray: Vec<Target> = (0..seeds).map(Target::Seed).collect();
        for node in &self.nodes {
            let target = Target::Node(node.beat.store);
            match node.standing {
                _ if node.beat.store == self.me => {}
                Standing::Up | Standing::Unheard => near.push(target),
                Standing::Down if node.listed || node.is_told(now_ms) => astray.push(target),
                Standing::Down => {}
            }
        }
        let anybody_up = self
            .nodes
            .iter()
            .any(|node| node.beat.store != self.me && node.standing == Standing::Up);
        let fanout = self.settings.fanout;
        let picked = self.draw.bring_forward(&mut near, fanout);
        near.truncate(picked);
        if anybody_up {
            if self.draw.next().is_multiple_of(ASTRAY_EVERY) && !astray.is_empty() {
                near.truncate(fanout.saturating_sub(1));
                near.push(astray[self.draw.below(astray.len())]);
            }
        } else {
            let picked = self.draw.bring_forward(&mut astray, fanout);
            near.extend(&astray[..picked]);
        }
        near
    }
}
