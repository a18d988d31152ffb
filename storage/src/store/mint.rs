//! Who mints dots. Keeps "mint only what you remember": one actor with one sequence of counters for all keys, replaced
//! as soon as this store may have forgotten any dot that the actor minted.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::version::{ActorId, Dot};

/// Fresh random numbers for actors, store ids and boots.
pub type Chance = Box<dyn FnMut() -> u64 + Send>;

struct State {
    actor: ActorId,
    /// The last counter minted; 0: none.
    counter: u64,
    chance: Chance,
}

/// The store's mint.
pub(super) struct Mint {
    state: Mutex<State>,
}

impl Mint {
    pub(super) fn new(actor: ActorId, counter: u64, chance: Chance) -> Self {
        Self {
            state: Mutex::new(State {
                actor,
                counter,
                chance,
            }),
        }
    }

    /// A dot that no other call got or gets. To be called under the lock of the key that it is for.
    pub(super) fn dot(&self) -> Dot {
        let mut state = self.lock();
        state.counter += 1;
        Dot {
            actor: state.actor,
            counter: state.counter,
        }
    }

    /// The actor and the last counter that it minted.
    pub(super) fn last(&self) -> (ActorId, u64) {
        let state = self.lock();
        (state.actor, state.counter)
    }

    /// Replaces the actor; dots minted from now on are a new actor's.
    pub(super) fn rotate(&self) -> ActorId {
        let mut state = self.lock();
        state.actor = ActorId((state.chance)());
        state.counter = 0;
        state.actor
    }

    /// A fresh random number.
    pub(super) fn chance(&self) -> u64 {
        (self.lock().chance)()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_one_sequence_per_actor() {
        let mut next = 100;
        let mint = Mint::new(
            ActorId(1),
            7,
            Box::new(move || {
                next += 1;
                next
            }),
        );
        assert_eq!(
            mint.dot(),
            Dot {
                actor: ActorId(1),
                counter: 8
            }
        );
        assert_eq!(
            mint.dot(),
            Dot {
                actor: ActorId(1),
                counter: 9
            }
        );
        assert_eq!(mint.rotate(), ActorId(101));
        assert_eq!(
            mint.dot(),
            Dot {
                actor: ActorId(101),
                counter: 1
            }
        );
        assert_eq!(mint.last(), (ActorId(101), 1));
    }
}
