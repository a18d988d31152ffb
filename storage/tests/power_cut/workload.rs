//! What a life is filled with: writes, deletes, retries, erasures, and copies from peers that write, too.

use std::sync::Arc;

use bytes::Bytes;
use ringfort_storage::store::{Hint, Opened, Read, Store, WriteLimits, Written};
use ringfort_storage::version::{
    ActorId, Context, Dot, Floor, NewPayload, Object, RequestId, Value, Write,
};
use ringfort_storage::{Key, Record};

use crate::chance::Chance;
use crate::history::{Event, HintEvent, History, Minted};
use crate::image::Image;
use crate::life::{self, KEYS, Life, keys};
use crate::machines::Machines;
use crate::recorder::{self, Trace};

/// The keys that get large values, so that images stay small.
const LARGE_KEYS: usize = 3;
const PEERS: u64 = 2;
/// A wall clock that the workload need not move: nothing expires, nothing is pruned by age.
const NOW_MS: u64 = 1_750_000_000_000;

/// A peer: its copies of the keys, and what it mints.
struct Peer {
    actor: ActorId,
    counter: u64,
    copies: Vec<Object>,
}

/// A store at work, and what it has done.
pub struct Run {
    store: Store,
    /// None once it is stopped.
    machines: Option<Machines>,
    history: History,
    chance: Chance,
    keys: Vec<Key>,
    peers: Vec<Peer>,
    sealed: Vec<usize>,
    changes: usize,
    hints: usize,
    now_ms: u64,
    /// The client of this run, and its last request: no request id comes twice in any life.
    client: u64,
    request: u64,
    /// To be tried again now and then, as a client does that got no answer.
    last: Option<(usize, Write)>,
}

impl Run {
    /// A store that holds what `history` says.
    pub fn new(opened: Opened, threads: bool, history: History, mut chance: Chance) -> Self {
        let peer = |actor| Peer {
            actor: ActorId(actor),
            counter: 0,
            copies: vec![Object::empty(); KEYS],
        };
        let (store, machines) = Machines::new(opened, threads);
        Self {
            store,
            machines: Some(machines),
            history,
            keys: keys(),
            peers: (0..PEERS).map(|_| peer(chance.next())).collect(),
            sealed: Vec::new(),
            changes: 0,
            hints: 0,
            now_ms: 1,
            client: chance.next(),
            request: 0,
            last: None,
            chance,
        }
    }

    /// Some of a client's work, a peer's, the log's or the drain's.
    pub fn step(&mut self) {
        self.now_ms += self.chance.below(30) as u64;
        match self.chance.below(100) {
            0..30 => self.write(),
            30..40 => self.receive(),
            40..44 => self.erase(),
            44..46 => self.write_again(),
            46..48 => self.ship(),
            48..49 => self.seal(),
            49..55 => self.hint(),
            55..58 => self.forget(),
            58..77 => {
                self.machines().log();
            }
            _ => {
                for _ in 0..self.chance.below(16) {
                    let now_ms = self.now_ms;
                    self.machines().drain(now_ms);
                    self.mark();
                }
            }
        }
        self.mark();
    }

    /// Whether enough has happened.
    pub fn is_enough(&self) -> bool {
        life::is_enough(self.changes, self.hints, self.store.stats().drains)
    }

    /// The life that this was.
    pub fn into_life(self, trace: Trace, end: Image) -> Life {
        Life {
            changes: self.changes,
            hints: self.hints,
            drains: self.store.stats().drains,
            renewals: self.store.stats().renewals,
            trace,
            history: self.history,
            sealed: self.sealed,
            end,
        }
    }

    fn machines(&mut self) -> &mut Machines {
        self.machines.as_mut().expect("not stopped")
    }

    /// Notes how far the log is durable, at this position of the trace or before.
    pub fn mark(&mut self) {
        mark(&self.store, &mut self.history);
    }

    /// Makes everything durable and sealed.
    pub fn seal(&mut self) {
        while !self.machines().seal() {
            self.mark();
        }
        self.mark();
        if !self.machines().are_threads() {
            self.sealed.push(recorder::position());
        }
    }

    /// Stops in order.
    pub fn close(&mut self) {
        let machines = self.machines.take().expect("not stopped");
        let (store, history) = (&self.store, &mut self.history);
        machines.close(store, self.now_ms, || mark(store, history));
        self.sealed.push(recorder::position());
    }

    fn pick(&mut self) -> usize {
        self.chance.below(KEYS)
    }

    fn value(&mut self, key: usize) -> Value {
        let large = key < LARGE_KEYS;
        let length = match self.chance.below(100) {
            0..10 => 0,
            10..60 => self.chance.below(200),
            60..80 => self.chance.below(5_000),
            80..90 if large => 1 << 20,
            _ if large => self.chance.below(200_000),
            _ => self.chance.below(20_000),
        };
        let mut content = self.chance.fork();
        let bytes: Vec<u8> = std::iter::repeat_with(|| content.next().to_le_bytes())
            .flatten()
            .take(length)
            .collect();
        Value::new(Bytes::from(bytes))
    }

    /// A write that has read `base`, or not.
    fn new_write(&mut self, key: usize, base: &Object) -> Write {
        self.request += 1;
        let context = self.chance.percent(80).then(|| Context::from(base));
        let payload = match context.is_some() && self.chance.percent(15) {
            true => NewPayload::Delete,
            false => NewPayload::Value(self.value(key)),
        };
        Write {
            context,
            payload,
            request: RequestId {
                client: self.client,
                sequence: self.request,
            },
            lowest_unanswered: self.request.saturating_sub(8),
            at_ms: NOW_MS,
            expires_at_ms: 0,
        }
    }

    fn write(&mut self) {
        let key = self.pick();
        let base = self.history.last_state(&self.keys[key]);
        let write = self.new_write(key, base.object());
        self.submit(key, &write);
        self.last = Some((key, write));
    }

    fn write_again(&mut self) {
        if let Some((key, write)) = self.last.take() {
            self.submit(key, &write);
        }
    }

    fn submit(&mut self, key: usize, write: &Write) {
        let position = recorder::position();
        let name = self.keys[key].clone();
        let limits = WriteLimits::default();
        let mut written = self.store.write(&name, write, NOW_MS, &limits);
        if let Ok(Written::Miss) = written {
            let loaded = self.store.load(std::slice::from_ref(&name));
            let read = loaded.expect("sled works").remove(0);
            self.check(&name, &read);
            written = self.store.write(&name, write, NOW_MS, &limits);
        }
        match written {
            Ok(Written::Applied {
                record,
                dot,
                sequence,
                ..
            }) => {
                self.minted(
                    &name,
                    record.object(),
                    dot,
                    write.context.as_ref(),
                    position,
                );
                self.happened(&name, sequence, position, record);
            }
            // Refused for lack of room or for too many siblings; or evicted at once by a large neighbour.
            Ok(Written::Repeated { .. } | Written::Miss) | Err(_) => {}
        }
    }

    fn minted(
        &mut self,
        key: &Key,
        object: &Object,
        dot: Dot,
        context: Option<&Context>,
        position: usize,
    ) {
        let mut siblings = object.siblings().iter();
        let sibling = siblings
            .find(|sibling| sibling.dot == dot)
            .expect("just written")
            .clone();
        let minted = Minted {
            sibling,
            context: context
                .map(|context| context.clock().clone())
                .unwrap_or_default(),
            position,
        };
        let history = self.history.keys.entry(key.clone()).or_default();
        let before = history.minted.insert(dot, minted);
        assert!(before.is_none(), "{dot:?} was minted twice");
    }

    fn happened(&mut self, key: &Key, sequence: u64, position: usize, state: Arc<Record>) {
        self.changes += 1;
        let event = Event {
            sequence,
            position,
            state,
        };
        self.history
            .keys
            .entry(key.clone())
            .or_default()
            .events
            .push(event);
        self.mark();
    }

    /// A copy of a key as some peer has it, which may lack what this store has. Mostly it has just been written to there.
    fn peer_copy(&mut self) -> (Key, Object) {
        let (key, peer) = (self.pick(), self.chance.below(PEERS as usize));
        let name = self.keys[key].clone();
        if self.chance.percent(80) {
            let base = self.peers[peer].copies[key].clone();
            let write = self.new_write(key, &base);
            let peer = &mut self.peers[peer];
            peer.counter += 1;
            let dot = Dot {
                actor: peer.actor,
                counter: peer.counter,
            };
            let object = base.write(&write, dot, NOW_MS);
            peer.copies[key] = object.clone();
            self.minted(
                &name,
                &object,
                dot,
                write.context.as_ref(),
                recorder::position(),
            );
        }
        (name, self.peers[peer].copies[key].clone())
    }

    /// Takes a peer's copy as a hint.
    fn hint(&mut self) {
        let (key, object) = self.peer_copy();
        let (position, before) = (recorder::position(), self.store.stats().last_sequence);
        let (generation, floor) = (self.chance.below(3) as u64, Floor::default());
        let now_ms = NOW_MS + self.now_ms;
        // Refused for lack of room: nothing changed.
        let taken = self
            .store
            .take_hint(&key, object, floor, generation, now_ms);
        if let Ok(sequence) = taken
            && sequence > before
        {
            let held = self.store.hint(&key);
            self.hint_changed(&key, sequence, position, held);
        }
    }

    /// The oldest hint is delivered, or dropped.
    fn forget(&mut self) {
        let Some(hint) = self.store.hints_after(None, 1, usize::MAX).pop() else {
            return;
        };
        let position = recorder::position();
        let gone = match self.chance.percent(20) {
            true => self
                .store
                .drop_hints(hint.taken_ms + 1, 1)
                .is_ok_and(|dropped| dropped == [hint.key.clone()]),
            false => self.store.forget_hint(&hint) == Ok(true),
        };
        if gone {
            let sequence = self.store.stats().last_sequence;
            self.hint_changed(&hint.key, sequence, position, None);
        }
    }

    fn hint_changed(&mut self, key: &Key, sequence: u64, position: usize, state: Option<Hint>) {
        self.hints += 1;
        let history = self.history.keys.entry(key.clone()).or_default();
        history.hints.push(HintEvent {
            sequence,
            position,
            state,
        });
        self.mark();
    }

    /// Merges a peer's copy here.
    fn receive(&mut self) {
        let (name, object) = self.peer_copy();
        let (position, before) = (recorder::position(), self.store.stats().last_sequence);
        match self.store.merge(&name, object.clone(), 0) {
            Ok(sequence) if sequence > before => {
                let merged = self
                    .history
                    .last_state(&name)
                    .object()
                    .clone()
                    .merge(object);
                let state = Arc::new(Record::new(&name, merged));
                self.happened(&name, sequence, position, state);
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// Sends this store's copy of a key to a peer.
    fn ship(&mut self) {
        let (key, peer) = (self.pick(), self.chance.below(PEERS as usize));
        let object = self.history.last_state(&self.keys[key]).object().clone();
        let copy = &mut self.peers[peer].copies[key];
        *copy = std::mem::take(copy).merge(object);
    }

    fn erase(&mut self) {
        // Few keys, so that most live long.
        let key = self.chance.below(4) * 10 + 5;
        let (name, position) = (self.keys[key].clone(), recorder::position());
        if let Ok(sequence) = self.store.erase(&name) {
            let nothing = Arc::new(Record::new(&name, Object::empty()));
            self.happened(&name, sequence, position, nothing);
            self.history.keys.entry(name).or_default().erased = true;
        }
    }

    /// What is read is what was written last.
    fn check(&self, key: &Key, read: &Read) {
        let expected = self.history.last_state(key);
        match read {
            Read::Found(record) => assert_eq!(record.leaf(), expected.leaf(), "{key:?}"),
            read => panic!("{read:?} for {key:?} on a sound disk"),
        }
    }
}

fn mark(store: &Store, history: &mut History) {
    // In this order: threads go on meanwhile.
    let durable = store.stats().durable_sequence;
    let position = recorder::position();
    if history
        .durable
        .last()
        .is_none_or(|(_, last)| *last != durable)
    {
        history.durable.push((position, durable));
    }
}
