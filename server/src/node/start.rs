//! The first half of a node's life: who it is, whether it may found or join, and what its directory remembers.
//!
//! Keeps I9 (one decree, durable before anybody serves) and I3 (a directory that has forgotten something never counts
//! toward R). No dot is minted here.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringfort_ring::{
    Decree, Member, NodeName, PartitionId, PlacementId, StoreId, tokens_for_capacity,
};
use ringfort_storage::{
    Store,
    disk::Disk,
    identity::{Identity, IdentityFile},
    mutants::{Mutant, is_planted},
    store::LOCK_FILE,
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    ask::{Answers, Asker},
    parts::Fatal,
};
use crate::{
    bootstrap::{
        Founder, IdentityLedger, Roster, Standing, initial_hash, join::place, standing_of,
    },
    config::{Config, HostPort},
    council::{Part, part_of, promises_of},
    view,
};

/// A directory that is held, and what it says of itself. Dropping it gives the lock back.
pub struct Home {
    /// The identity's name, store and decree.
    pub roster: Arc<Roster>,
    /// Whether the directory belonged to a cluster before.
    pub returning: bool,
    _lock: ringfort_storage::disk::DirectoryLock,
}

/// The settings with the name that the directory has, if nobody gave one: the host of a container that is made anew has another
/// name, and the node is the same.
pub fn named(config: Config, disk: &Arc<dyn Disk>) -> Result<Config, Fatal> {
    if !config.is_named_by_host() {
        return Ok(config);
    }
    let fail = |error: &dyn std::fmt::Display| {
        Fatal::Start(format!("{}: {error}", config.data_dir.display()))
    };
    let _lock = disk.lock(LOCK_FILE).map_err(|e| fail(&e))?;
    let kept = IdentityFile::load(Arc::clone(disk)).map_err(|e| fail(&e))?;
    let name = kept.map(|kept| kept.current().node_name.clone());
    Ok(Config {
        name: name.unwrap_or_else(|| config.name.clone()),
        ..config
    })
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
    let returning = match &standing {
        Standing::Member(decree) => {
            let promises = promises_of(&current, &decree.layout).map_err(|e| fail(&e))?;
            check_part(part_of(&promises, me.store_id), &promises.decree, &me)?;
            true
        }
        _ => false,
    };
    let ledger = Box::new(IdentityLedger(Arc::new(identity)));
    Ok(Home {
        roster: Roster::new(me, initial_hash(&config.initial), standing, ledger),
        returning,
        _lock: lock,
    })
}

/// This node as a layout would list it, if it came to be added: its place on the ring follows from its store.
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
        placement_id: PlacementId(xxh3_64(&store_id.0.to_le_bytes())),
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

/// Whether a store that is `part` of the cluster may take part in it, by the newest decree that it knows. Where the node is
/// reached is its own word: it proposes that itself. Capacity and zone are the operator's.
pub fn check_part(part: Part, newest: &Decree, me: &Member) -> Result<(), Fatal> {
    let again = "empty the directory to come back as a new store";
    let Member { name, store_id, .. } = me;
    let mut live = newest.live().iter().rev();
    let listed = live.find_map(|layout| layout.member(name));
    match part {
        Part::Member => {
            let listed =
                listed.filter(|listed| (listed.tokens, &listed.zone) != (me.tokens, &me.zone));
            if let Some(listed) = listed {
                tracing::warn!(
                    tokens = listed.tokens,
                    zone = listed.zone,
                    "capacity and zone stay as the layout lists them: `ringfort layout set` changes them"
                );
            }
            Ok(())
        }
        Part::Excused => Err(Fatal::Retired(format!(
            "{name} was excused (`layout excuse`), so its store {store_id} is refused for good: {again}"
        ))),
        Part::Removed => Err(Fatal::Retired(match listed {
            Some(listed) => format!(
                "the store {} has taken the place of {store_id} as {name}'s, so this directory is refused for good: {again}",
                listed.store_id
            ),
            None => {
                format!("{name} was removed from the cluster, with its store {store_id}: {again}")
            }
        })),
        Part::Waiting => place(newest, me, false).map(drop).map_err(Fatal::Start),
    }
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
        .count_for_nothing()
        .map_err(|error| Fatal::Storage(error.to_string()))
}

/// Tells the members that answered of an entry of the log that is this start's own, so that an image of the directory from before
/// it is known to be older from now on, whatever else they come to hear. An actor that nobody could be told of is replaced: put back,
/// such an image would mint its dots again.
pub async fn announce(store: &Store, asker: &Asker, answers: &Answers, patience: Duration) {
    let sequence = store.mark_start();
    let mut durable = store.durable();
    // A full or failed disk: nobody can be told, then.
    let is_durable = tokio::time::timeout(patience, durable.wait_for(|&known| known >= sequence));
    let is_durable = matches!(is_durable.await, Ok(Ok(_)));
    let has_answered = |store| matches!(answers.get(&store), Some(Some(_)));
    let told = match is_durable {
        true => asker.ask_those(patience, has_answered).await,
        false => Answers::new(),
    };
    // One that is alone in its cluster has nobody to tell, and nobody who could mistake its dots.
    if told.values().flatten().next().is_none() && !answers.is_empty() {
        let actor = store.replace_actor();
        tracing::info!(
            ?actor,
            "no member was told of this start: minting as a new actor"
        );
    }
}

/// The partitions of every member that do not count toward R, as the members say themselves.
pub fn unsynced(me: StoreId, store: &Store, answers: &Answers) -> view::Unsynced {
    let set = |list: &[u32]| list.iter().copied().map(PartitionId).collect();
    let mut all: view::Unsynced = answers
        .iter()
        .filter_map(|(store, answer)| Some((*store, set(&answer.as_ref()?.unsynced))))
        .collect();
    all.insert(me, view::own_unsynced(store));
    all
}
