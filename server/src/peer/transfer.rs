//! Hands over what this node holds of a partition to a store that a new layout gives it to.
//!
//! Keeps I3: nothing is handed over before this store's own `ack` of that layout, so that what the older layout alone
//! acknowledged is in what is handed over; and nothing that may be erased already. Keeps I7: few pages at a time, each bounded.

use ringfort_proto::{Failure, Reason, peer};
use ringfort_ring::{Epoch, PartitionId, Token};
use ringfort_storage::{
    Key, Record, Store,
    store::{Folds, Read, ScanPage},
};

use super::{compare::FOLDS_A_TURN, owned::failed, replica::key_from_wire, turns::Turns};
use crate::{
    limits::{SCAN_BYTES_MAX, SCAN_KEYS_MAX},
    view::Views,
    wire::encode_object,
};

/// What handing over needs.
#[derive(Clone)]
pub(crate) struct Giver {
    /// The current view.
    views: Views,
    /// The store.
    store: Store,
    /// When pages are made.
    turns: Turns,
}

impl Giver {
    pub fn new(views: Views, store: Store, turns: Turns) -> Giver {
        Giver {
            views,
            store,
            turns,
        }
    }

    /// One page.
    ///
    /// # Errors
    /// `STALE_EPOCH`, `NOT_SYNCED` (not to be handed over yet), `BAD_REQUEST`, `OVERLOADED`.
    pub async fn answer(
        &self,
        request: peer::TransferRequest,
    ) -> Result<peer::TransferResponse, Failure> {
        let giver = self.clone();
        self.turns.run(move || giver.page(&request)).await
    }

    /// Blocks.
    fn page(&self, request: &peer::TransferRequest) -> Result<peer::TransferResponse, Failure> {
        self.judge(request)?;
        let page = if !request.keys.is_empty() {
            self.these(request)?
        } else if self.gives(request) && self.is_same(request)? {
            peer::TransferResponse::default()
        } else {
            self.next_page(request)?
        };
        // What was read may be the leavings of an erasing, if the partition was given away meanwhile.
        self.judge(request)?;
        // What was found damaged while it was read makes the partition unsynced at once.
        Ok(peer::TransferResponse {
            counts: self.store.is_synced(request.partition),
            ..page
        })
    }

    fn judge(&self, request: &peer::TransferRequest) -> Result<(), Failure> {
        let view = self.views.current();
        if request.partition >= view.layout().partitions() {
            let words = format!("there is no partition {}", request.partition);
            return Err(Failure::new(Reason::BadRequest, words));
        }
        let (partition, epoch) = (PartitionId(request.partition), Epoch(request.layout));
        if view.hands_over(partition, epoch) || view.repairs(partition, epoch) {
            return Ok(());
        }
        let newest = view.history().decree().newest().epoch();
        if newest > epoch || view.live().len() == 1 && newest == epoch && !view.owns(partition) {
            let words = format!("layout {epoch} gives nothing away any more");
            return Err(Failure::new(Reason::StaleEpoch, words).with("epoch", view.epoch()));
        }
        let words =
            format!("this store does not hand over partition {partition} for layout {epoch} yet");
        Err(Failure::new(Reason::NotSynced, words))
    }

    /// Whether a layout that changes gives the partition away. Else its copy repairs one that was lost: where one disk failed the
    /// others are read through, so that what rots there comes to light while it can be mended.
    fn gives(&self, request: &peer::TransferRequest) -> bool {
        let (partition, epoch) = (PartitionId(request.partition), Epoch(request.layout));
        self.views.current().hands_over(partition, epoch)
    }

    /// Whether all that this store holds of the partition is what the asker holds. A copy that does not count may lack what it once
    /// had: then nothing is said by its tree.
    fn is_same(&self, request: &peer::TransferRequest) -> Result<bool, Failure> {
        let is_first = request.leaves_only && request.after.is_empty();
        let Some(theirs) = request.root.filter(|_| is_first) else {
            return Ok(false);
        };
        if !self.store.is_synced(request.partition) {
            return Ok(false);
        }
        let mine = self.store.root(request.partition, &mut Folds(FOLDS_A_TURN));
        let mine = mine.map_err(failed)?;
        Ok(mine.is_some_and(|mine| mine.hash == theirs))
    }

    fn next_page(
        &self,
        request: &peer::TransferRequest,
    ) -> Result<peer::TransferResponse, Failure> {
        let view = self.views.current();
        let (first, last) = view.layout().token_range(PartitionId(request.partition));
        let after = match request.after.is_empty() {
            true => None,
            false => Some(key_of(&request.after)?),
        };
        let in_range = |key: &Key| (first..=last).contains(&Token(key.token()));
        if after.as_ref().is_some_and(|key| !in_range(key)) {
            let words = "a key to go on after that is not of the partition";
            return Err(Failure::new(Reason::BadRequest, words));
        }
        let first = after.as_ref().map_or(first.0, Key::token);
        let page = self.store.scan(
            first,
            after.as_ref().map(|key| &key.framed()[..]),
            last.0,
            request.max_keys.clamp(1, SCAN_KEYS_MAX) as usize,
            usize::try_from(request.max_bytes.clamp(1, SCAN_BYTES_MAX)).unwrap_or(usize::MAX),
        );
        let ScanPage { records, next, .. } = page.map_err(|error| {
            Failure::new(Reason::Overloaded, format!("the engine failed: {error}"))
        })?;
        let moved = records
            .into_iter()
            .map(|(key, record)| moved(&key, &record, request.leaves_only));
        Ok(peer::TransferResponse {
            fence: None,
            moved: moved.collect(),
            next: next.map(|key| key.framed().clone()).unwrap_or_default(),
            counts: false,
        })
    }

    /// As many of the keys asked for as fit, at least one.
    fn these(&self, request: &peer::TransferRequest) -> Result<peer::TransferResponse, Failure> {
        let mut answer = peer::TransferResponse::default();
        let mut bytes = 0;
        for framed in request.keys.iter().take(SCAN_KEYS_MAX as usize) {
            let key = key_of(framed)?;
            let loaded = self.store.load_to_send(std::slice::from_ref(&key));
            let read = loaded.map_err(|error| {
                Failure::new(Reason::Overloaded, format!("the engine failed: {error}"))
            })?;
            let found = match read.into_iter().next() {
                Some(Read::Found(record)) => moved(&key, &record, false),
                // Damaged here: nothing to give, and the copy does not count. The other owners have it.
                _ => peer::Moved {
                    key: framed.clone(),
                    ..peer::Moved::default()
                },
            };
            bytes += found.object.len() as u64;
            answer.moved.push(found);
            if bytes >= request.max_bytes.clamp(1, SCAN_BYTES_MAX) {
                break;
            }
        }
        Ok(answer)
    }
}

fn key_of(framed: &bytes::Bytes) -> Result<Key, Failure> {
    key_from_wire(framed).map_err(|reason| Failure::new(reason, "a key that is none"))
}

pub(super) fn moved(key: &Key, record: &Record, leaf_only: bool) -> peer::Moved {
    peer::Moved {
        key: key.framed().clone(),
        leaf: record.leaf(),
        object: match leaf_only || record.object().is_empty() {
            true => Default::default(),
            false => encode_object(record.object()),
        },
    }
}

#[cfg(test)]
mod tests {
    use ringfort_storage::store::Root;

    use super::*;
    use crate::testing::{Cluster, Node, put_with, w};

    /// A question for what differs from a copy that has this root.
    fn question(node: &Node, partition: u32, root: Option<u64>) -> peer::TransferRequest {
        peer::TransferRequest {
            layout: node.views.current().oldest_epoch().0,
            partition,
            leaves_only: true,
            root,
            max_keys: SCAN_KEYS_MAX,
            max_bytes: SCAN_BYTES_MAX,
            ..peer::TransferRequest::default()
        }
    }

    fn root(node: &Node, partition: u32) -> Root {
        let root = node.store.root(partition, &mut Folds(usize::MAX));
        root.expect("the engine is well").expect("nobody writes")
    }

    #[tokio::test]
    async fn what_is_the_same_is_not_told_leaf_by_leaf() {
        let cluster = Cluster::of_three().await;
        let node = &cluster.nodes[0];
        for n in 0..50 {
            let key = format!("key-{n}");
            node.run(put_with(&key, "v", w(3)))
                .await
                .expect("all are up");
        }
        for partition in 0..node.store.partitions() {
            let Root { hash, keys } = root(node, partition);
            assert!(keys > 0, "50 keys are spread over 8 partitions");
            let giver = node.data.replica.giver();
            let is_same = |root| {
                let same = giver.is_same(&question(node, partition, root));
                same.expect("the engine is well")
            };
            let other = root(&cluster.nodes[1], partition);
            assert!(is_same(Some(other.hash)));
            assert!(!is_same(Some(hash ^ 1)) && !is_same(None));
            // What was lost with a disk is compared leaf by leaf, whatever the roots say.
            let page = giver.answer(question(node, partition, Some(hash))).await;
            assert_eq!(page.expect("an owner is told").moved.len(), keys as usize);
            // A copy that does not count says nothing by its tree: it may be the same by what both lack.
            node.store.set_synced(partition, false).expect("a disk");
            assert!(!is_same(Some(hash)));
        }
    }
}
