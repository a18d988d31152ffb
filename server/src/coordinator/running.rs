//! Request ids that are running, so that a second attempt joins the first.
//!
//! Keeps I7: 4,096 a client and 65,536 a node, then `OVERLOADED`. It holds *running* ids only; that an id was applied
//! before is found in the object itself.

use std::collections::BTreeMap;

use ringfort_storage::version::RequestId;

use super::slab::OpId;
use crate::limits::Limits;

/// Running request ids, by client.
#[derive(Default)]
pub(super) struct Running {
    clients: BTreeMap<u64, BTreeMap<u64, OpId>>,
    total: usize,
}

impl Running {
    /// The operation that runs under this id.
    pub fn get(&self, request: RequestId) -> Option<OpId> {
        self.clients
            .get(&request.client)?
            .get(&request.sequence)
            .copied()
    }

    /// Whether one more id of that client has room.
    pub fn has_room(&self, client: u64, limits: &Limits) -> bool {
        let of_client = self.clients.get(&client).map_or(0, BTreeMap::len);
        self.total < limits.running_per_node && of_client < limits.running_per_client
    }

    /// Enters an id, or moves it to another operation.
    pub fn enter(&mut self, request: RequestId, id: OpId) {
        let sequences = self.clients.entry(request.client).or_default();
        if sequences.insert(request.sequence, id).is_none() {
            self.total += 1;
        }
    }

    /// The id runs no more.
    pub fn leave(&mut self, request: RequestId) {
        let Some(sequences) = self.clients.get_mut(&request.client) else {
            return;
        };
        if sequences.remove(&request.sequence).is_some() {
            self.total -= 1;
        }
        if sequences.is_empty() {
            self.clients.remove(&request.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_ids_that_leave_make_room() {
        let limits = Limits {
            running_per_client: 2,
            running_per_node: 3,
            ..Limits::default()
        };
        let id = |client, sequence| RequestId { client, sequence };
        let mut running = Running::default();
        running.enter(id(1, 1), OpId(11));
        running.enter(id(1, 2), OpId(12));
        assert!(!running.has_room(1, &limits));
        assert!(running.has_room(2, &limits));
        running.enter(id(2, 1), OpId(21));
        assert!(!running.has_room(3, &limits));
        assert_eq!(running.get(id(1, 2)), Some(OpId(12)));
        running.leave(id(1, 2));
        running.leave(id(1, 2));
        assert_eq!(running.get(id(1, 2)), None);
        assert!(running.has_room(3, &limits));
        running.leave(id(1, 1));
        running.leave(id(2, 1));
        assert!(running.clients.is_empty());
        assert_eq!(running.total, 0);
    }
}
