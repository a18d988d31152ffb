//! The view that all parts of a node share, and how it is replaced.
//!
//! Keeps I3: a promise that a newer view makes is true before it can be told, because whoever replaces the view waits for all work
//! that was begun by the older one.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use ringfort_ring::PartitionId;
use tokio::sync::watch;

use super::View;

/// The current [`View`], shared by all parts of a node.
#[derive(Debug, Clone)]
pub struct Views(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    view: watch::Sender<Arc<View>>,
    /// Held for reading while work is done by a view.
    work: RwLock<()>,
}

/// The view by which a piece of work is done: [`Views::update`] waits for its end. Not to be kept over anything that waits.
pub struct Held<'a> {
    view: Arc<View>,
    _work: RwLockReadGuard<'a, ()>,
}

impl std::ops::Deref for Held<'_> {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl Views {
    /// Starts with `view`.
    pub fn new(view: View) -> Self {
        Views(Arc::new(Shared {
            view: watch::Sender::new(Arc::new(view)),
            work: RwLock::new(()),
        }))
    }

    /// The view now.
    pub fn current(&self) -> Arc<View> {
        Arc::clone(&self.0.view.borrow())
    }

    /// The view now, to store or to answer by: whoever replaces it waits until this is dropped. Never taken twice at a time.
    pub fn enter(&self) -> Held<'_> {
        let work = self.0.work.read().unwrap_or_else(PoisonError::into_inner);
        Held {
            view: self.current(),
            _work: work,
        }
    }

    /// Makes `view` the current one.
    pub fn replace(&self, view: View) {
        self.update(|_| Some(view));
    }

    /// Replaces the current view by what `change` makes of it, if anything; nobody else does meanwhile. When this returns,
    /// all work that was [entered](Self::enter) by an older view has ended: what it stored is stored, and what a promise rules
    /// out happens no more. That is what makes the promise (I3) one that can be told.
    pub fn update(&self, change: impl FnOnce(&View) -> Option<View>) {
        let changed = self.0.view.send_if_modified(|view| match change(view) {
            Some(new) => {
                *view = Arc::new(new);
                true
            }
            None => false,
        });
        if changed {
            drop(self.0.work.write().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Replaces what is known of this node's own copies by what `read` gives, which is read while nobody else replaces it.
    pub fn set_own_unsynced(&self, read: impl FnOnce() -> BTreeSet<PartitionId>) {
        self.update(|view| {
            let view = view.with_own_unsynced(read());
            view.inspect_err(
                |error| tracing::error!(%error, "a view that was fine is none any more: a bug"),
            )
            .ok()
        });
    }

    /// Told of every replacement.
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.0.view.subscribe()
    }
}
