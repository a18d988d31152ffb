//! The first half of a node's life: who it is, whether it may found or join, and what its directory remembers.
//!
//! Keeps I9 (one decree, durable before anybody serves) and I3 (a directory that has forgotten something never counts
//! toward R). No dot is minted here.

use std::sync::Arc;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringfort_ring::{
    ClusterId, Layout, Member, NodeName, PartitionId, PlacementId, StoreId, tokens_for_capacity,
};
use ringfort_storage::{
    Store,
    disk::Disk,
    identity::{Identity, IdentityFile, Unsynced},
    mutants::{Mutant, is_planted},
    store::LOCK_FILE,
};

use super::{ask::Answers, parts::Fatal};
use crate::{
    bootstrap::{Founder, IdentityLedger, Roster, Standing, initial_hash, standing_of},
    config::{Config, HostPort},
    council::promises_of,
    view,
};

/// A directory that is held, and what it says of itself. Dropping it gives the lock back.
pub struct Home {
    /// The identity's name, store and decree.
    pub roster: Arc<Roster>,
    /// Whether the directory belonged to a cluster before.
    pub returning: bool,
    /// The newest layout that the store knows, if it is a member.
    pub layout: Option<Layout>,
    _lock: ringfort_storage::disk::DirectoryLock,
}

/// Locks the directory and reads, or makes, its identity.
pub fn open(config: &Config, disk: &Arc<dyn Disk>, chance: &mut StdRng) -> Result<Home, Fatal> {
    let fail = |error: &dyn std::fmt::Display| {
        Fatal::Start(format!("{}: {error}", config.data_dir.display()))
    };
    let lock = disk.lock(LOCK_FILE).map_err(|e| fail(&e))?;
    let make = || Identity::new(chance.random(), chance.random(), config.name.as_str());
    let identity = IdentityFile::load_or_create(Arc::clone(disk), make).map_err(|e| fail(&e))?;
    let current = identity.current();
    if current.node_name != config.name {
        return Err(Fatal::Start(format!(
            "{} is the directory of node {}, not of {}",
            config.data_dir.display(),
            current.node_name,
            config.name
        )));
    }
    let standing = standing_of(&current)
        .map_err(|error| Fatal::Start(format!("{} holds {error}", config.data_dir.display())))?;
    let me = me(config, StoreId(current.store_id))?;
    let layout = match &standing {
        Standing::Member(decree) => {
            let promises = promises_of(&current, &decree.layout).map_err(|e| fail(&e))?;
            Some(promises.decree.newest().clone())
        }
        _ => None,
    };
    let ledger = Box::new(IdentityLedger(Arc::new(identity)));
    Ok(Home {
        roster: Roster::new(me, initial_hash(&config.initial), standing, ledger),
        returning: layout.is_some(),
        layout,
        _lock: lock,
    })
}

/// This node as a layout lists it.
fn me(config: &Config, store_id: StoreId) -> Result<Member, Fatal> {
    let fail = |error: &dyn std::fmt::Display| Fatal::Start(error.to_string());
    let addr =
        |bound: &HostPort, advertised: Option<&HostPort>| advertised.unwrap_or(bound).to_string();
    // Where only clients are told another host, scrapers find the HTTP port on that host, too.
    let http = match (&config.http_advertise, &config.client_advertise) {
        (Some(http), _) => http.clone(),
        (None, Some(client)) if config.http_addr.is_unspecified() => HostPort {
            host: client.host.clone(),
            port: config.http_addr.port,
        },
        _ => config.http_addr.clone(),
    };
    Ok(Member {
        name: NodeName::new(&config.name).map_err(|e| fail(&e))?,
        placement_id: PlacementId(0),
        store_id,
        tokens: tokens_for_capacity(config.capacity).map_err(|e| fail(&e))?,
        zone: config.zone.clone(),
        client_addr: addr(&config.client_addr, config.client_advertise.as_ref()),
        peer_addr: addr(&config.peer_addr, config.peer_advertise.as_ref()),
        http_addr: http.to_string(),
    })
}

/// What the node is before there is a cluster.
pub fn founder(config: &Config, roster: &Roster) -> Founder {
    Founder {
        me: roster.me().clone(),
        initial: config
            .initial
            .iter()
            .map(|m| (m.name.clone(), m.peer.to_string()))
            .collect(),
        seeds: config.seeds.iter().map(HostPort::to_string).collect(),
        initial_hash: roster.initial_hash(),
    }
}

/// Whether this node is what the layout lists; what differs would need a layout change.
pub fn check_listing(cluster: ClusterId, layout: &Layout, me: &Member) -> Result<(), Fatal> {
    let Some(listed) = layout.member(&me.name) else {
        return Err(Fatal::Start(format!(
            "cluster {} does not list {}",
            cluster, me.name
        )));
    };
    if listed.store_id != me.store_id {
        return Err(Fatal::Start(format!(
            "cluster {} lists the store {} for {}, and this directory is the store {}",
            cluster, listed.store_id, me.name, me.store_id
        )));
    }
    for (what, listed, mine) in [
        ("peers", &listed.peer_addr, &me.peer_addr),
        ("clients", &listed.client_addr, &me.client_addr),
    ] {
        if listed != mine {
            return Err(Fatal::Start(format!(
                "the layout sends {what} of {} to {listed}, and this node advertises {mine}: start it with the address \
                 that it had, and move it with `ringfort layout set`",
                me.name
            )));
        }
    }
    if listed.tokens != me.tokens || listed.zone != me.zone || listed.http_addr != me.http_addr {
        tracing::warn!("capacity, zone and HTTP address stay as the layout lists them");
    }
    Ok(())
}

/// A source of chance for one purpose, so that none depends on how often another was used.
pub fn chance(seed: u64, purpose: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Compares what this store recovered with what others heard of it. Less means a restored or copied directory: it gets a
/// new actor, and counts toward R for nothing until repaired.
pub fn judge_memory(store: &Store, answers: &Answers) -> Result<(), Fatal> {
    let heard = answers
        .values()
        .flatten()
        .map(|answer| answer.heard_sequence)
        .max()
        .unwrap_or(0);
    let recovered = store.stats().durable_sequence;
    if heard <= recovered || is_planted(Mutant::ReuseActor) {
        return Ok(());
    }
    tracing::error!(
        recovered,
        heard,
        "this directory is older than what others have seen of it (restored, or copied?): it counts toward no read until \
         it is repaired"
    );
    store.replace_actor();
    store
        .identity()
        .update(|identity| identity.unsynced = Unsynced::All)
        .map_err(|error| Fatal::Storage(error.to_string()))
}

/// The partitions of every member that do not count toward R, as the members say themselves.
pub fn unsynced(me: StoreId, store: &Store, answers: &Answers) -> view::Unsynced {
    let set = |list: &[u32]| list.iter().copied().map(PartitionId).collect();
    let mut all: view::Unsynced = answers
        .iter()
        .filter_map(|(store, answer)| Some((*store, set(&answer.as_ref()?.unsynced))))
        .collect();
    all.insert(me, set(&store.unsynced()));
    all
}
