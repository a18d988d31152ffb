//! Joining: what an empty directory is to a cluster that exists, and how it comes to belong to it.
//!
//! Keeps I9: the cluster id is durable before this node says anything in the cluster. Nothing is founded here, and no layout
//! changes: a store that no layout lists owns nothing.

use std::sync::Arc;

use ringfort_proto::peer;
use ringfort_ring::{Decree as RingDecree, Member};

use super::{
    Decree, Roster,
    found::{BootstrapError, Channels, client, hello},
};
use crate::{limits::PEER_MESSAGE_BYTES_MAX, net::Net};

/// What an empty directory is to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// No layout lists the node: it waits to be added.
    New,
    /// The node is a member, and this directory takes the place of the one that it lost.
    Renewed,
}

/// The place of `me`, an empty directory, in the cluster whose newest decree this is. `old_lives`: at the address of the member
/// of that name answers the store that is listed.
///
/// # Errors
/// Why there is none: the name is taken. Nothing was changed.
pub fn place(newest: &RingDecree, me: &Member, old_lives: bool) -> Result<Place, String> {
    let mut live = newest.live().iter().rev();
    let Some(listed) = live.find_map(|layout| layout.member(&me.name)) else {
        return Ok(Place::New);
    };
    let moved = listed.peer_addr != me.peer_addr;
    let excused = newest.excused().contains_key(&listed.store_id);
    let name = &me.name;
    if old_lives || (moved && !excused) {
        let lives = if old_lives { ", and it answers" } else { "" };
        return Err(format!(
            "the name {name} is taken: it is the member at {} with the store {}{lives}. Give this node another --name; if it is \
             that member after the loss of its directory, start it with the peer address that it had, or say \
             `ringfort layout excuse {name}` first",
            listed.peer_addr, listed.store_id
        ));
    }
    Ok(Place::Renewed)
}

/// Makes this node belong to the cluster that the node at `addr` is a member of: a durable part of it, and not yet a member.
pub(super) async fn join(
    addr: &str,
    founding: &Arc<Decree>,
    roster: &Roster,
    channels: &mut Channels,
    net: &Arc<dyn Net>,
) -> Result<Place, Unjoined> {
    let newest = newest(addr, founding, channels, net).await?;
    let me = roster.me();
    let mut live = newest.live().iter().rev();
    let old = live.find_map(|layout| layout.member(&me.name));
    let old_lives = match old {
        Some(old) => {
            let answer = hello(&old.peer_addr, roster, channels, net).await;
            answer.is_some_and(|answer| answer.store == old.store_id)
        }
        None => false,
    };
    let refused = |why| Unjoined::Never(BootstrapError::Refused(why));
    let place = place(&newest, me, old_lives).map_err(refused)?;
    let joined = roster.join(founding, Arc::new(newest));
    joined.map_err(refused)?;
    Ok(place)
}

/// Why a node does not belong to a cluster yet.
pub(super) enum Unjoined {
    /// Asking again may help.
    Yet(String),
    /// Nothing but the operator helps.
    Never(BootstrapError),
}

/// The newest decree that a member knows.
async fn newest(
    addr: &str,
    founding: &Decree,
    channels: &mut Channels,
    net: &Arc<dyn Net>,
) -> Result<RingDecree, Unjoined> {
    let request = peer::DecreesRequest {
        cluster_id: founding.cluster.0,
        ..Default::default()
    };
    let mut client = client(channels, net, addr).max_decoding_message_size(PEER_MESSAGE_BYTES_MAX);
    let asked = tokio::time::timeout(super::found::ASK_TIMEOUT, client.decrees(request)).await;
    let yet = |why: &dyn std::fmt::Display| {
        Unjoined::Yet(format!("{addr} does not tell the newest layout: {why}"))
    };
    let answer = asked
        .map_err(|_| yet(&"no answer in time"))?
        .map_err(|status| yet(&status.message()))?;
    RingDecree::decode(&answer.into_inner().newest).map_err(|error| yet(&error))
}

#[cfg(test)]
mod tests {
    use ringfort_ring::{Change, Epoch, Layout, NodeName, PlacementId, StoreId, apply};

    use super::*;

    fn member(name: &str, store: u64, host: &str) -> Member {
        Member {
            name: NodeName::new(name).expect("valid"),
            placement_id: PlacementId(store),
            store_id: StoreId(store),
            tokens: 256,
            zone: String::new(),
            client_addr: format!("{host}:7400"),
            peer_addr: format!("{host}:7500"),
            http_addr: format!("{host}:7600"),
        }
    }

    fn newest() -> RingDecree {
        let members = ["a", "b", "c"].iter().zip(1..);
        let members = members.map(|(name, store)| member(name, store, name));
        let layout = Layout::new(Epoch(1), 8, 3, members.collect());
        RingDecree::founding(layout.expect("valid"))
    }

    #[test]
    fn a_new_name_waits_to_be_added_and_a_lost_directory_takes_its_place() {
        let newest = newest();
        assert_eq!(place(&newest, &member("d", 9, "d"), false), Ok(Place::New));
        assert_eq!(
            place(&newest, &member("b", 9, "b"), false),
            Ok(Place::Renewed)
        );
    }

    #[test]
    fn a_name_that_is_taken_is_refused_until_its_member_is_excused() {
        let newest = newest();
        let elsewhere = member("b", 9, "x");
        for (me, old_lives) in [
            (&elsewhere, false),
            (&elsewhere, true),
            (&member("b", 9, "b"), true),
        ] {
            let why = place(&newest, me, old_lives).expect_err("taken");
            assert!(
                why.contains("the name b is taken") && why.contains("b:7500"),
                "{why}"
            );
        }
        let excused = apply(
            &newest,
            &[Change::Excuse(NodeName::new("b").expect("valid"))],
        );
        let excused = excused.expect("fits");
        assert_eq!(place(&excused, &elsewhere, false), Ok(Place::Renewed));
        assert!(place(&excused, &elsewhere, true).is_err(), "it lives");
    }
}
