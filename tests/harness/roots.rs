//! Whether all owners of every partition hold the same, by their Merkle roots, looked at from outside: no node is asked, and nothing is
//! read, so nothing is repaired by looking.

use std::collections::BTreeMap;

use ringfort_ring::{Decree, PartitionId, Placement, StoreId};
use ringfort_storage::Store;

use super::{cluster::SimNode, words};

/// What differs among the nodes that run, in words, by the newest layout that any of them keeps; empty: all owners that run tell the
/// same roots, and nobody else claims to hold anything. A partition with copies that are still to be folded counts as differing: drains fold them within seconds.
pub fn differing(nodes: &[SimNode]) -> Vec<String> {
    let stores = nodes
        .iter()
        .filter_map(|node| Some((node.name.as_str(), node.store()?)));
    let stores: Vec<(&str, Store)> = stores.collect();
    let decrees = stores.iter().filter_map(|(_, store)| decree(store));
    let Some(decree) = decrees.max_by_key(Decree::epoch) else {
        return vec!["no node keeps a layout".to_owned()];
    };
    let by_store: BTreeMap<StoreId, &(&str, Store)> = stores
        .iter()
        .map(|named| (StoreId(named.1.identity().current().store_id), named))
        .collect();
    let layout = decree.newest();
    let Ok(placement) = Placement::compute(layout) else {
        return vec!["the layout has no placement".to_owned()];
    };
    let owners_of = |partition: PartitionId| {
        let owners = placement.owners(partition).iter();
        owners.map(|owner| layout.members()[usize::from(*owner)].store_id)
    };
    let mut differing = Vec::new();
    for partition in layout.partition_ids() {
        let held = owners_of(partition).filter_map(|store| by_store.get(&store));
        let told: Vec<(&str, Option<(u64, u32)>)> = held
            .map(|(name, store)| {
                let now = store.partition_tree(partition.0);
                let root = now
                    .unfolded
                    .is_empty()
                    .then(|| (now.tree.root(), now.tree.count()));
                (*name, root)
            })
            .collect();
        let first = told.first().and_then(|(_, root)| *root);
        if told
            .iter()
            .any(|(_, root)| root.is_none() || *root != first)
        {
            differing.push(format!("partition {}: {told:x?}", partition.0));
        }
        let owners: Vec<StoreId> = owners_of(partition).collect();
        for (store, (name, held)) in &by_store {
            let count = held.partition_tree(partition.0).tree.count();
            if count > 0 && !owners.contains(store) {
                differing.push(format!(
                    "partition {}: {name} claims {count} keys, and does not own it",
                    partition.0
                ));
            }
        }
    }
    differing
}

/// The newest decree that a store keeps.
fn decree(store: &Store) -> Option<Decree> {
    let identity = store.identity().current();
    let promises = words::promises(&identity).ok()??;
    Some((*promises.decree).clone())
}
