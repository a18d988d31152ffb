//! What this node is and holds, as it tells others: answers `Hello` and `Accept`.
//!
//! Keeps I9: an acceptance is durable before the reply, and a second, different decree is refused for ever.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use ringfort_proto::peer;
use ringfort_ring::{Decree as RingDecree, Member, StoreId};
use tokio::sync::watch;

use super::{Decree, Standing};
use crate::layout_wire::member_to_wire;

/// Where an acceptance is made durable.
pub trait Ledger: Send + 'static {
    /// Keeps the decree, and whether all are known to have accepted it; returns when that is on stable storage.
    ///
    /// # Errors
    /// The disk failed; nobody knows what is on it.
    fn keep(&mut self, decree: &Decree, decided: bool) -> io::Result<()>;

    /// Keeps that this store belongs to the cluster of `founding`, knows its newest decree, and is in no layout yet: all of
    /// that at once, and on stable storage when this returns.
    ///
    /// # Errors
    /// As of [`Self::keep`].
    fn join(&mut self, founding: &Decree, newest: Arc<RingDecree>) -> io::Result<()>;
}

/// This node's name, store, decree and answers.
pub struct Roster {
    me: Member,
    initial_hash: u64,
    /// `None` once nothing is left to be accepted.
    ledger: Mutex<Option<Box<dyn Ledger>>>,
    standing: watch::Sender<Standing>,
}

impl Roster {
    /// A node that holds `standing`, durably.
    pub fn new(
        me: Member,
        initial_hash: u64,
        standing: Standing,
        ledger: Box<dyn Ledger>,
    ) -> Arc<Self> {
        Arc::new(Roster {
            me,
            initial_hash,
            ledger: Mutex::new(Some(ledger)),
            standing: watch::Sender::new(standing),
        })
    }

    /// This node as a layout would list it.
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// This node's store.
    pub fn store_id(&self) -> StoreId {
        self.me.store_id
    }

    /// The hash of this node's `--initial` list.
    pub fn initial_hash(&self) -> u64 {
        self.initial_hash
    }

    /// What this node holds now.
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Told of every change of the standing.
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// What this node asks others with.
    pub fn hello_request(&self) -> peer::HelloRequest {
        peer::HelloRequest {
            asks_generations: false,
            name: self.me.name.to_string(),
            initial_hash: self.initial_hash,
            store_id: self.me.store_id.0,
            cluster_id: self
                .standing()
                .decree()
                .map_or(0, |decree| decree.cluster.0),
            durable_sequence: 0,
        }
    }

    /// What this node answers: who it is and what it holds. The caller adds what the store knows.
    pub fn hello(&self) -> peer::HelloResponse {
        let standing = self.standing();
        let state = match standing {
            Standing::Empty => peer::NodeState::Empty,
            Standing::Accepted(_) => peer::NodeState::Accepted,
            Standing::Member(_) => peer::NodeState::Member,
        };
        peer::HelloResponse {
            name: self.me.name.to_string(),
            state: state as i32,
            initial_hash: self.initial_hash,
            store_id: self.me.store_id.0,
            decree: standing.decree().map(|decree| decree.to_wire()),
            me: Some(member_to_wire(&self.me)),
            ..Default::default()
        }
    }

    /// A member accepts nothing any more; from here on the store keeps the identity.
    pub fn close_ledger(&self) {
        *self.ledger.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Answers an offer: durable before the reply.
    pub fn accept(&self, request: peer::AcceptRequest) -> peer::AcceptResponse {
        let refused = |why_not: String| peer::AcceptResponse {
            accepted: false,
            why_not,
        };
        let decree = match request.decree.map(Decree::from_wire) {
            Some(Ok(decree)) => decree,
            Some(Err(error)) => return refused(error.to_string()),
            None => return refused("no decree".to_owned()),
        };
        match self.adopt(decree, request.decided) {
            Ok(()) => peer::AcceptResponse {
                accepted: true,
                why_not: String::new(),
            },
            Err(why) => refused(why),
        }
    }

    /// Accepts a decree, durably, and with `decided` notes that all others have, too.
    ///
    /// # Errors
    /// Why this node does not: it holds another one, or is not listed as it is, or its disk failed.
    pub fn adopt(&self, decree: Decree, decided: bool) -> Result<(), String> {
        // Held throughout, so that of two offers at once the second sees the first.
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        match &*self.standing.borrow() {
            Standing::Empty => self.check(&decree)?,
            Standing::Accepted(held) | Standing::Member(held) if **held != decree => {
                return Err(format!(
                    "{} holds the decree of cluster {} already",
                    self.me.name, held.cluster
                ));
            }
            Standing::Member(_) => return Ok(()),
            Standing::Accepted(_) if !decided => return Ok(()),
            Standing::Accepted(_) => {}
        }
        let ledger = ledger
            .as_mut()
            .ok_or_else(|| format!("{} accepts nothing any more", self.me.name))?;
        ledger
            .keep(&decree, decided)
            .map_err(|error| format!("{} cannot make the decree durable: {error}", self.me.name))?;
        let decree = Arc::new(decree);
        self.standing.send_replace(if decided {
            Standing::Member(decree)
        } else {
            Standing::Accepted(decree)
        });
        Ok(())
    }

    /// Belongs to a cluster from now on, durably, without being in any layout.
    ///
    /// # Errors
    /// Why not: it holds a decree, or its disk failed.
    pub fn join(&self, founding: &Arc<Decree>, newest: Arc<RingDecree>) -> Result<(), String> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let name = &self.me.name;
        if let Some(held) = self.standing.borrow().decree() {
            return Err(format!(
                "{name} holds the decree of cluster {} already",
                held.cluster
            ));
        }
        let ledger = ledger
            .as_mut()
            .ok_or_else(|| format!("{name} joins nothing any more"))?;
        ledger
            .join(founding, newest)
            .map_err(|error| format!("{name} cannot note durably that it joins: {error}"))?;
        self.standing
            .send_replace(Standing::Member(founding.clone()));
        Ok(())
    }

    fn check(&self, decree: &Decree) -> Result<(), String> {
        let name = &self.me.name;
        if decree.initial_hash != self.initial_hash {
            return Err(format!("{name} was started with another --initial list"));
        }
        match decree.layout.member(name) {
            None => Err(format!("the decree does not list {name}")),
            Some(listed) if listed.store_id != self.me.store_id => Err(format!(
                "the decree lists the store {} for {name}, which is {}",
                listed.store_id, self.me.store_id
            )),
            Some(_) => Ok(()),
        }
    }
}
