//! Staged changes: what an operator wants to be different, applied to the newest decree.
//!
//! *Invariant:* applying is pure and whole: either all changes of a list fit, in their order, and give one valid decree
//! for the next epoch, or a typed error names the first that does not, and nothing is changed. A list either places or
//! amends, never both.

mod codec;

pub use codec::{decode_changes, encode_changes};

use std::collections::BTreeMap;

use super::{Decree, DecreeError, Excuse, Layout, LayoutError, MEMBERS_MAX, Member};
use crate::id::{NodeName, StoreId};

/// The most changes that are staged together.
pub const CHANGES_MAX: usize = MEMBERS_MAX;

/// One change of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new member. Places.
    Add(Member),
    /// A member goes; what it owns moves to others. Places.
    Remove(NodeName),
    /// A new machine takes a member's place on the ring (its placement id, capacity and zone). Places; nothing else moves.
    Replace {
        /// Who goes.
        old: NodeName,
        /// Who comes; its placement id, tokens and zone are set from the old one.
        new: Member,
    },
    /// Another capacity or zone. Places.
    Set {
        /// The member.
        name: NodeName,
        /// Its tokens from now on, if they change.
        tokens: Option<u32>,
        /// Its zone from now on, if it changes.
        zone: Option<String>,
    },
    /// A member is reached elsewhere. Amends.
    Addresses {
        /// The member.
        name: NodeName,
        /// Where clients reach it.
        client_addr: String,
        /// Where other nodes reach it.
        peer_addr: String,
        /// Where metrics and probes are served.
        http_addr: String,
    },
    /// A member lost its directory and has a new, empty one. Amends.
    NewStore {
        /// The member.
        name: NodeName,
        /// Its store from now on.
        store_id: StoreId,
    },
    /// The word that a member's machine is off. Amends.
    Excuse(NodeName),
    /// The word that a member's data is lost for good. Amends.
    AcceptLoss(NodeName),
}

/// Why staged changes do not fit. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// There is nothing to do.
    #[error("nothing is staged")]
    Nothing,
    /// There are too many.
    #[error("{0} changes are staged; at most {CHANGES_MAX} are committed together")]
    TooMany(usize),
    /// A name that no member has.
    #[error("no member is called {0}")]
    Unknown(NodeName),
    /// A name that is taken.
    #[error("{0} is a member already: names are unique, and another machine needs another name")]
    NameTaken(NodeName),
    /// A store that is listed.
    #[error("the store {0} belongs to a member already")]
    StoreTaken(StoreId),
    /// Too few members would be left.
    #[error(
        "{left} members would be left, and each partition needs {replicas} owners: add members first"
    )]
    TooFew {
        /// How many.
        left: usize,
        /// N.
        replicas: u32,
    },
    /// Placing and amending at once.
    #[error(
        "changes of owners and changes of addresses, stores or excuses are committed one after the other"
    )]
    Mixed,
    /// Two layouts are live.
    #[error(
        "a change is under way: layouts {oldest} and {newest} are live; commit when it has ended"
    )]
    UnderWay {
        /// The layout that is left.
        oldest: crate::Epoch,
        /// The layout that comes.
        newest: crate::Epoch,
    },
    /// The target breaks a rule of layouts.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The target breaks a rule of decrees.
    #[error(transparent)]
    Decree(#[from] DecreeError),
}

impl Change {
    /// Whether it changes who owns what.
    pub fn places(&self) -> bool {
        match self {
            Change::Add(_) | Change::Remove(_) | Change::Replace { .. } | Change::Set { .. } => {
                true
            }
            Change::Addresses { .. }
            | Change::NewStore { .. }
            | Change::Excuse(_)
            | Change::AcceptLoss(_) => false,
        }
    }
}

/// The decree that `changes`, in their order, make of `base`.
///
/// # Errors
/// [`ChangeError`] names the first change that does not fit.
pub fn apply(base: &Decree, changes: &[Change]) -> Result<Decree, ChangeError> {
    if changes.is_empty() {
        return Err(ChangeError::Nothing);
    }
    if changes.len() > CHANGES_MAX {
        return Err(ChangeError::TooMany(changes.len()));
    }
    let places = changes[0].places();
    if changes.iter().any(|change| change.places() != places) {
        return Err(ChangeError::Mixed);
    }
    if places {
        place(base, changes)
    } else {
        amend(base, changes)
    }
}

fn place(base: &Decree, changes: &[Change]) -> Result<Decree, ChangeError> {
    let [current] = base.live() else {
        return Err(ChangeError::UnderWay {
            oldest: base.oldest().epoch(),
            newest: base.newest().epoch(),
        });
    };
    let mut members: BTreeMap<NodeName, Member> = by_name(current);
    for change in changes {
        match change {
            Change::Add(member) => join(base, &mut members, member.clone())?,
            Change::Remove(name) => drop(leave(&mut members, name)?),
            Change::Replace { old, new } => {
                let gone = leave(&mut members, old)?;
                let new = Member {
                    placement_id: gone.placement_id,
                    tokens: gone.tokens,
                    zone: gone.zone,
                    ..new.clone()
                };
                if new.name == *old {
                    return Err(ChangeError::NameTaken(new.name));
                }
                join(base, &mut members, new)?;
            }
            Change::Set { name, tokens, zone } => {
                let member = find(&mut members, name)?;
                member.tokens = tokens.unwrap_or(member.tokens);
                member.zone = zone.clone().unwrap_or_else(|| member.zone.clone());
            }
            _ => return Err(ChangeError::Mixed),
        }
    }
    let left = members.len();
    if left < current.members().len() && left < current.replicas() as usize {
        return Err(ChangeError::TooFew {
            left,
            replicas: current.replicas(),
        });
    }
    let epoch = base.epoch().next();
    let members = members.into_values().collect();
    let target = Layout::new(epoch, current.partitions(), current.replicas(), members)?;
    let live = vec![current.clone(), target];
    Ok(Decree::new(epoch, live, base.excused().clone())?)
}

fn join(
    base: &Decree,
    members: &mut BTreeMap<NodeName, Member>,
    member: Member,
) -> Result<(), ChangeError> {
    // A name or store of the layout that is left stays taken until that layout is retired.
    let listed = base.newest().member(&member.name).is_some();
    if listed || members.contains_key(&member.name) {
        return Err(ChangeError::NameTaken(member.name));
    }
    if base.lists(member.store_id) {
        return Err(ChangeError::StoreTaken(member.store_id));
    }
    members.insert(member.name.clone(), member);
    Ok(())
}

fn leave(members: &mut BTreeMap<NodeName, Member>, name: &NodeName) -> Result<Member, ChangeError> {
    members
        .remove(name)
        .ok_or_else(|| ChangeError::Unknown(name.clone()))
}

fn find<'a>(
    members: &'a mut BTreeMap<NodeName, Member>,
    name: &NodeName,
) -> Result<&'a mut Member, ChangeError> {
    members
        .get_mut(name)
        .ok_or_else(|| ChangeError::Unknown(name.clone()))
}

fn by_name(layout: &Layout) -> BTreeMap<NodeName, Member> {
    let members = layout.members().iter();
    members
        .map(|member| (member.name.clone(), member.clone()))
        .collect()
}

fn amend(base: &Decree, changes: &[Change]) -> Result<Decree, ChangeError> {
    let mut excused = base.excused().clone();
    let mut live: Vec<BTreeMap<NodeName, Member>> = base.live().iter().map(by_name).collect();
    for change in changes {
        let name = match change {
            Change::Addresses { name, .. }
            | Change::NewStore { name, .. }
            | Change::Excuse(name)
            | Change::AcceptLoss(name) => name,
            _ => return Err(ChangeError::Mixed),
        };
        let store_taken = |store: StoreId| {
            base.lists(store)
                || live
                    .iter()
                    .flat_map(BTreeMap::values)
                    .any(|m| m.store_id == store)
        };
        if let Change::NewStore { store_id, .. } = change
            && store_taken(*store_id)
        {
            return Err(ChangeError::StoreTaken(*store_id));
        }
        let mut listed = live
            .iter_mut()
            .filter_map(|members| members.get_mut(name))
            .peekable();
        if listed.peek().is_none() {
            return Err(ChangeError::Unknown(name.clone()));
        }
        for member in listed {
            amend_one(change, member, &mut excused);
        }
    }
    let layouts = base.live().iter().zip(live).map(|(old, members)| {
        let members = members.into_values().collect();
        Layout::new(old.epoch(), old.partitions(), old.replicas(), members)
    });
    let live = layouts.collect::<Result<_, _>>()?;
    Ok(Decree::new(base.epoch().next(), live, excused)?)
}

fn amend_one(change: &Change, member: &mut Member, excused: &mut BTreeMap<StoreId, Excuse>) {
    match change {
        Change::Addresses {
            client_addr,
            peer_addr,
            http_addr,
            ..
        } => {
            member.client_addr.clone_from(client_addr);
            member.peer_addr.clone_from(peer_addr);
            member.http_addr.clone_from(http_addr);
        }
        Change::NewStore { store_id, .. } => {
            excused.remove(&member.store_id);
            member.store_id = *store_id;
        }
        Change::Excuse(_) => {
            excused.entry(member.store_id).or_insert(Excuse::Off);
        }
        Change::AcceptLoss(_) => {
            excused.insert(member.store_id, Excuse::Lost);
        }
        Change::Add(_) | Change::Remove(_) | Change::Replace { .. } | Change::Set { .. } => {}
    }
}

#[cfg(test)]
mod tests;
