//! What a node in bootstrap does next: a pure function of what it holds and what the others answered.
//!
//! This module leaves out, on purpose: time, chance and messages. The shell asks again whenever it is told to wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ringfort_ring::{Member, StoreId};

use super::Decree;

/// What a node holds of a decree, durably.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Empty,
    /// A decree, not known to be accepted by all.
    Accepted(Arc<Decree>),
    /// A decree that all members are known to have accepted, or the one that a cluster was founded by which this node has joined.
    Member(Arc<Decree>),
}

impl Standing {
    /// The decree, if there is one.
    pub fn decree(&self) -> Option<&Arc<Decree>> {
        match self {
            Standing::Empty => None,
            Standing::Accepted(decree) | Standing::Member(decree) => Some(decree),
        }
    }
}

/// What a node is, before there is a cluster.
#[derive(Debug, Clone)]
pub struct Founder {
    /// This node as a layout would list it (its placement id is given by the proposer).
    pub me: Member,
    /// The names of `--initial` and their peer addresses; empty for a cluster of one.
    pub initial: BTreeMap<String, String>,
    /// The peer addresses of `--seeds`.
    pub seeds: BTreeSet<String>,
    /// See [`super::initial_hash`].
    pub initial_hash: u64,
}

impl Founder {
    /// Whom to ask: the addresses of all others that may know of a cluster.
    pub fn asks(&self, standing: &Standing) -> BTreeSet<String> {
        match standing.decree() {
            Some(decree) => decree
                .layout
                .members()
                .iter()
                .filter(|member| member.name != self.me.name)
                .map(|member| member.peer_addr.clone())
                .collect(),
            None => self
                .initial
                .iter()
                .filter(|(name, _)| *name != self.me.name.as_str())
                .map(|(_, addr)| addr.clone())
                .chain(self.seeds.iter().cloned())
                .filter(|addr| *addr != self.me.peer_addr)
                .collect(),
        }
    }

    /// Whether this node is the one that proposes: the first of the sorted list.
    fn proposes(&self) -> bool {
        self.initial
            .keys()
            .next()
            .is_none_or(|first| first == self.me.name.as_str())
    }
}

/// What another node said of itself.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its name.
    pub name: String,
    /// Its store.
    pub store: StoreId,
    /// What it holds.
    pub standing: Standing,
    /// The hash of its `--initial` list.
    pub initial_hash: u64,
    /// How a layout would list it.
    pub me: Option<Member>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// All are empty and this node proposes: make a decree of these members, persist it, then go on.
    Propose(Vec<Member>),
    /// Ask these addresses to accept the decree that this node holds.
    Offer(Vec<String>),
    /// All members hold the decree: note that durably, tell these addresses, serve.
    Decide(Vec<String>),
    /// There is a cluster: belong to that one. A member of it answers at the address.
    Join(String, Arc<Decree>),
    /// Ask again after a while. The sentence says what is missing.
    Wait(String),
    /// This node cannot found or join anything: end with the sentence.
    Refuse(String),
}

/// The next step of the node `founder` that holds `standing`, after a round of questions. `answers` has one entry for each
/// address of [`Founder::asks`], `None` for silence; `holders` are stores that are known, from this round or before, to
/// hold the decree of `standing` (what was accepted once stays accepted). A node that is a member has nothing to ask here.
pub fn next(
    founder: &Founder,
    standing: &Standing,
    answers: &BTreeMap<String, Option<Answer>>,
    holders: &BTreeSet<StoreId>,
) -> Action {
    // A seed list may name this node itself.
    let answers: BTreeMap<&String, Option<&Answer>> = answers
        .iter()
        .map(|(addr, answer)| (addr, answer.as_ref()))
        .filter(|(_, answer)| answer.is_none_or(|a| a.store != founder.me.store_id))
        .collect();
    match standing {
        Standing::Empty => empty(founder, &answers),
        Standing::Accepted(decree) => accepted(founder, decree, &answers, holders),
        Standing::Member(_) => Action::Decide(Vec::new()),
    }
}

fn empty(founder: &Founder, answers: &BTreeMap<&String, Option<&Answer>>) -> Action {
    for (addr, answer) in answers {
        if let Some(answer) = answer
            && let Some(why) = objection(founder, addr, answer)
        {
            return Action::Refuse(why);
        }
    }
    match cluster(answers) {
        Ok(Some((addr, decree))) => return Action::Join(addr.to_owned(), decree.clone()),
        Err(why) => return Action::Refuse(why),
        Ok(None) => {}
    }
    let silent: Vec<&str> = answers
        .iter()
        .filter(|(_, answer)| answer.is_none())
        .map(|(addr, _)| addr.as_str())
        .collect();
    if !silent.is_empty() {
        return Action::Wait(format!("no answer yet from {}", silent.join(", ")));
    }
    if founder.initial.is_empty() && !founder.seeds.is_empty() {
        return Action::Wait("no seed is a member of a cluster yet".to_owned());
    }
    if let Some(answer) = answers
        .values()
        .flatten()
        .find(|a| a.standing != Standing::Empty)
    {
        return Action::Wait(format!("{} holds a decree and offers it", answer.name));
    }
    if !founder.proposes() {
        let first = founder.initial.keys().next().map_or("", String::as_str);
        return Action::Wait(format!("{first} proposes the first layout"));
    }
    propose(founder, answers)
}

/// The cluster that members among those who answered belong to, and where one of them answers.
fn cluster<'a>(
    answers: &'a BTreeMap<&String, Option<&Answer>>,
) -> Result<Option<(&'a str, &'a Arc<Decree>)>, String> {
    let mut found: Option<(&str, &Arc<Decree>)> = None;
    for (addr, answer) in answers {
        let Some(Standing::Member(decree)) = answer.map(|answer| &answer.standing) else {
            continue;
        };
        match found {
            None => found = Some((addr, decree)),
            Some((other, known)) if known.cluster != decree.cluster => {
                return Err(format!(
                    "{other} belongs to cluster {}, {addr} to cluster {}: name nodes of one cluster",
                    known.cluster, decree.cluster
                ));
            }
            Some(_) => {}
        }
    }
    Ok(found)
}

/// Why an empty node cannot go on, seeing this answer.
fn objection(founder: &Founder, addr: &str, answer: &Answer) -> Option<String> {
    let me = &founder.me.name;
    let name = &answer.name;
    if let Some(why) = stranger(founder, addr, answer) {
        return Some(why);
    }
    match &answer.standing {
        Standing::Member(_) => None,
        Standing::Accepted(decree) => {
            let listed = decree.layout.member(me);
            if listed.is_none() && founder.initial.is_empty() {
                return None; // It comes by its seeds, to the cluster that is being founded.
            }
            (listed.map(|m| m.store_id) != Some(founder.me.store_id)).then(|| {
                format!(
                    "{name} ({addr}) holds an unfinished decree that lists another store for {me}: \
                     its directory was replaced in the middle of a bootstrap. Nothing was served yet: \
                     empty the directories of all members and start again"
                )
            })
        }
        Standing::Empty => (answer.initial_hash != founder.initial_hash
            && founder.initial.values().any(|listed| listed == addr))
        .then(|| {
            format!("{name} ({addr}) was started with another --initial list than {me}: make them the same")
        }),
    }
}

/// Who answers at an address of the list must be who the list says.
fn stranger(founder: &Founder, addr: &str, answer: &Answer) -> Option<String> {
    let (expected, _) = founder.initial.iter().find(|(_, listed)| *listed == addr)?;
    (*expected != answer.name).then(|| {
        format!(
            "at {addr}, where --initial has {expected}, answers {}",
            answer.name
        )
    })
}

fn propose(founder: &Founder, answers: &BTreeMap<&String, Option<&Answer>>) -> Action {
    let mut members = vec![founder.me.clone()];
    for answer in answers.values().flatten() {
        if !founder.initial.contains_key(&answer.name) {
            continue; // an empty seed outside the list
        }
        match &answer.me {
            Some(member)
                if member.name.as_str() == answer.name && member.store_id == answer.store =>
            {
                members.push(member.clone());
            }
            _ => return Action::Wait(format!("{} does not say how to list it", answer.name)),
        }
    }
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let listed = founder.initial.len().max(1);
    if members.len() != listed {
        return Action::Wait(format!(
            "{} of {listed} members have answered",
            members.len()
        ));
    }
    Action::Propose(members)
}

fn accepted(
    founder: &Founder,
    decree: &Arc<Decree>,
    answers: &BTreeMap<&String, Option<&Answer>>,
    holders: &BTreeSet<StoreId>,
) -> Action {
    let others = || {
        answers
            .keys()
            .map(|addr| (*addr).clone())
            .collect::<Vec<_>>()
    };
    let mut offers = Vec::new();
    for (addr, answer) in answers {
        let Some(answer) = answer else { continue };
        if let Some(held) = answer.standing.decree() {
            if held != decree {
                return Action::Refuse(format!(
                    "{} ({addr}) holds the decree of cluster {}, this node that of cluster {}",
                    answer.name, held.cluster, decree.cluster
                ));
            }
            if matches!(answer.standing, Standing::Member(_)) {
                return Action::Decide(others());
            }
            continue;
        }
        let listed = decree.layout.members().iter();
        let fits = |m: &Member| m.name.as_str() == answer.name && m.store_id == answer.store;
        if !listed.clone().any(fits) {
            return Action::Refuse(format!(
                "{} ({addr}) is empty and not the store that the unfinished decree of this node lists: its directory was \
                 replaced in the middle of a bootstrap. Nothing was served yet: empty the directories of all members and \
                 start again",
                answer.name
            ));
        }
        offers.push((*addr).clone());
    }
    let missing: Vec<&str> = decree
        .layout
        .members()
        .iter()
        .filter(|member| !holds(founder, decree, answers, holders, member))
        .map(|member| member.name.as_str())
        .collect();
    if missing.is_empty() {
        Action::Decide(others())
    } else if offers.is_empty() {
        Action::Wait(format!("{} must accept the decree", missing.join(", ")))
    } else {
        Action::Offer(offers)
    }
}

/// Whether `member` is known to hold the decree. The first of the list made it durable before it offered it to anybody.
fn holds(
    founder: &Founder,
    decree: &Arc<Decree>,
    answers: &BTreeMap<&String, Option<&Answer>>,
    holders: &BTreeSet<StoreId>,
    member: &Member,
) -> bool {
    let proposer = decree
        .layout
        .members()
        .first()
        .is_some_and(|first| first.name == member.name);
    let said_so = answers
        .values()
        .flatten()
        .any(|a| a.store == member.store_id && a.standing.decree() == Some(decree));
    proposer
        || said_so
        || member.store_id == founder.me.store_id
        || holders.contains(&member.store_id)
}
