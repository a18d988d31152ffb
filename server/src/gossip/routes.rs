//! What gossip tells those who route: who is down, and where nodes are now.
//!
//! Keeps I6: this changes whom an operation is sent to first and where connections go, never who owns what.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
};

use ringfort_ring::StoreId;

/// What is known of one store's node.
#[derive(Debug, Clone, Default)]
struct Route {
    down: bool,
    peer_addr: Option<String>,
}

/// The state of all nodes that gossip knows. Of a store that it does not know nothing is claimed.
#[derive(Debug, Default)]
pub struct Routes(RwLock<BTreeMap<StoreId, Route>>);

/// Stores that are remembered, at most: as many as gossip knows.
const ROUTES_MAX: usize = ringfort_ring::gossip::message::NODES_MAX;

impl Routes {
    /// Whether the node is held to be down. One that is not may be so all the same: a few seconds pass before it is noticed.
    pub fn is_down(&self, store: StoreId) -> bool {
        let routes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        routes.get(&store).is_some_and(|route| route.down)
    }

    /// Where other nodes reach the node now, as it says itself; it may have moved since the layout listed it.
    pub fn peer_addr(&self, store: StoreId) -> Option<String> {
        let routes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        routes.get(&store)?.peer_addr.clone()
    }

    /// The node is down, or up.
    pub fn set_down(&self, store: StoreId, down: bool) {
        self.change(store, |route| route.down = down);
    }

    /// The node says that it is reached there.
    pub fn set_peer_addr(&self, store: StoreId, addr: &str) {
        self.change(store, |route| route.peer_addr = Some(addr.to_owned()));
    }

    fn change(&self, store: StoreId, change: impl FnOnce(&mut Route)) {
        let mut routes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if routes.len() < ROUTES_MAX || routes.contains_key(&store) {
            change(routes.entry(store).or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_claimed_of_strangers() {
        let routes = Routes::default();
        assert!(!routes.is_down(StoreId(1)));
        assert_eq!(routes.peer_addr(StoreId(1)), None);
        routes.set_down(StoreId(1), true);
        routes.set_peer_addr(StoreId(1), "ash:1");
        assert!(routes.is_down(StoreId(1)));
        assert_eq!(routes.peer_addr(StoreId(1)).as_deref(), Some("ash:1"));
        routes.set_down(StoreId(1), false);
        assert!(!routes.is_down(StoreId(1)));
    }
}
