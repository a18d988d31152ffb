//! In which phase of its life a node is, and who wants to know: HTTP probes, gRPC health, `Hello`.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// The phases of a node's life, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Recovering, founding, asking: no client is served.
    Starting,
    /// Clients are served.
    Ready,
    /// Lame duck: what is in flight finishes, nothing new is taken.
    Draining,
}

/// The node's phase, and what it waits for while it starts.
#[derive(Debug)]
pub struct Health {
    phase: watch::Sender<Phase>,
    doing: Mutex<String>,
    broken: Mutex<Option<String>>,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            phase: watch::Sender::new(Phase::Starting),
            doing: Mutex::new("starting".to_owned()),
            broken: Mutex::new(None),
        }
    }
}

impl Health {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes on to a later phase; never back.
    pub fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            if later {
                *phase = to;
            }
            later
        });
    }

    /// Told of every change of the phase.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Says what a starting node is at.
    pub fn doing(&self, what: &str) {
        tracing::debug!("{what}");
        what.clone_into(&mut self.doing.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes that this process is past saving.
    pub fn break_down(&self, why: &str) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }

    /// Why a restart would help, if it would.
    pub fn broken(&self) -> Option<String> {
        self.broken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// `None` when requests may be routed here, else why not.
    pub fn unready(&self) -> Option<String> {
        if let Some(why) = self.broken() {
            return Some(why);
        }
        match self.phase() {
            Phase::Starting => {
                let doing = self.doing.lock().unwrap_or_else(PoisonError::into_inner);
                Some(doing.clone())
            }
            Phase::Ready => None,
            Phase::Draining => Some("draining".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_advance() {
        let health = Health::default();
        health.doing("recovering");
        assert_eq!(health.unready(), Some("recovering".to_owned()));
        health.advance(Phase::Ready);
        assert_eq!(health.unready(), None);
        health.advance(Phase::Draining);
        health.advance(Phase::Ready);
        assert_eq!(health.unready(), Some("draining".to_owned()));
        assert_eq!(health.broken(), None);
    }
}
