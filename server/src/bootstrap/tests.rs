//! The pure core and the roster, over every order in which a bootstrap can go.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use ringfort_ring::{
    ClusterId, Decree as RingDecree, Epoch, Layout, Member, NodeName, PlacementId, StoreId,
};

use super::*;

fn member(name: &str, store: u64) -> Member {
    Member {
        name: NodeName::new(name).expect("a valid name"),
        placement_id: PlacementId(store + 100),
        store_id: StoreId(store),
        tokens: 256,
        zone: String::new(),
        client_addr: format!("{name}:7400"),
        peer_addr: format!("{name}:7500"),
        http_addr: format!("{name}:7600"),
    }
}

fn founder(name: &str, store: u64, initial: &[&str]) -> Founder {
    Founder {
        me: member(name, store),
        initial: initial
            .iter()
            .map(|n| ((*n).to_owned(), format!("{n}:7500")))
            .collect(),
        seeds: BTreeSet::new(),
        initial_hash: 7,
    }
}

fn decree(cluster: u64, members: Vec<Member>) -> Arc<Decree> {
    Arc::new(Decree {
        cluster: ClusterId(cluster),
        layout: Layout::new(Epoch(1), 16, 3, members).expect("valid"),
        initial_hash: 7,
    })
}

fn three() -> Vec<Member> {
    vec![member("a", 1), member("b", 2), member("c", 3)]
}

fn answer(name: &str, store: u64, standing: Standing) -> Option<Answer> {
    Some(Answer {
        name: name.to_owned(),
        store: StoreId(store),
        standing,
        initial_hash: 7,
        me: Some(member(name, store)),
    })
}

fn answers(list: &[(&str, Option<Answer>)]) -> BTreeMap<String, Option<Answer>> {
    list.iter()
        .map(|(name, answer)| (format!("{name}:7500"), answer.clone()))
        .collect()
}

fn step(founder: &Founder, standing: &Standing, list: &[(&str, Option<Answer>)]) -> Action {
    next(founder, standing, &answers(list), &BTreeSet::new())
}

const ABC: &[&str] = &["a", "b", "c"];

#[test]
fn without_a_list_a_node_founds_a_cluster_of_one() {
    let alone = founder("a", 1, &[]);
    assert_eq!(alone.asks(&Standing::Empty), BTreeSet::new());
    assert_eq!(
        step(&alone, &Standing::Empty, &[]),
        Action::Propose(vec![member("a", 1)])
    );
    let held = Standing::Accepted(decree(9, vec![member("a", 1)]));
    assert_eq!(step(&alone, &held, &[]), Action::Decide(vec![]));
}

#[test]
fn only_the_first_name_proposes_and_only_when_all_have_answered() {
    let b = answer("b", 2, Standing::Empty);
    let c = answer("c", 3, Standing::Empty);
    let first = founder("a", 1, ABC);
    assert!(matches!(
        step(&first, &Standing::Empty, &[("b", b.clone()), ("c", None)]),
        Action::Wait(why) if why.contains("c:7500")
    ));
    assert_eq!(
        step(&first, &Standing::Empty, &[("b", b), ("c", c.clone())]),
        Action::Propose(three())
    );
    let a = answer("a", 1, Standing::Empty);
    let second = founder("b", 2, ABC);
    assert!(matches!(
        step(&second, &Standing::Empty, &[("a", a), ("c", c)]),
        Action::Wait(why) if why.contains("a proposes")
    ));
}

#[test]
fn a_silent_seed_holds_up_a_proposal() {
    let mut first = founder("a", 1, ABC);
    first.seeds.insert("old:7500".to_owned());
    let list = [
        ("b", answer("b", 2, Standing::Empty)),
        ("c", answer("c", 3, Standing::Empty)),
        ("old", None),
    ];
    assert!(first.asks(&Standing::Empty).contains("old:7500"));
    assert!(matches!(
        step(&first, &Standing::Empty, &list),
        Action::Wait(why) if why.contains("old:7500")
    ));
}

#[test]
fn who_comes_by_seeds_waits_for_a_cluster_that_is_being_founded() {
    let mut fifth = founder("e", 5, &[]);
    fifth.seeds.insert("a:7500".to_owned());
    let founding = Standing::Accepted(decree(9, three()));
    let list = [("a", answer("a", 1, founding.clone()))];
    let action = step(&fifth, &Standing::Empty, &list);
    assert!(matches!(action, Action::Wait(why) if why.contains("no seed is a member")));
    // One that the decree lists with another store is no stranger to it.
    let mut third = founder("c", 7, &[]);
    third.seeds.insert("a:7500".to_owned());
    let action = step(&third, &Standing::Empty, &list);
    assert!(matches!(action, Action::Refuse(why) if why.contains("another store for c")));
}

#[test]
fn an_empty_node_joins_a_cluster_and_founds_none_beside_it() {
    for (members, silent) in [(three(), "c"), (vec![member("x", 1)], "b")] {
        let cluster = decree(9, members);
        let list = [
            ("a", answer("a", 1, Standing::Member(cluster.clone()))),
            (silent, None),
        ];
        let action = step(&founder("d", 22, ABC), &Standing::Empty, &list);
        assert_eq!(action, Action::Join("a:7500".to_owned(), cluster));
    }
    let list = [
        ("a", answer("a", 1, Standing::Member(decree(9, three())))),
        ("c", answer("c", 3, Standing::Member(decree(10, three())))),
    ];
    let action = step(&founder("d", 4, ABC), &Standing::Empty, &list);
    assert!(matches!(action, Action::Refuse(why) if why.contains("name nodes of one cluster")));
}

#[test]
fn who_has_joined_holds_the_founding_decree_and_accepts_no_other() {
    let memory = Memory::default();
    let roster = roster("d", 4, &memory);
    let founding = decree(9, three());
    let newest = Arc::new(RingDecree::founding(founding.layout.clone()));
    roster.join(&founding, newest.clone()).expect("empty");
    assert_eq!(memory.standing(), Standing::Member(founding));
    let other = decree(10, vec![member("d", 4)]);
    assert!(roster.join(&other, newest).is_err());
    assert!(roster.adopt(Decree::clone(&other), false).is_err());
}

#[test]
fn different_lists_and_swapped_names_are_refused() {
    let mut other = answer("b", 2, Standing::Empty);
    if let Some(answer) = &mut other {
        answer.initial_hash = 8;
    }
    let first = founder("a", 1, ABC);
    let action = step(&first, &Standing::Empty, &[("b", other), ("c", None)]);
    assert!(matches!(action, Action::Refuse(why) if why.contains("another --initial list")));
    let swapped = answer("c", 3, Standing::Empty);
    let action = step(&first, &Standing::Empty, &[("b", swapped), ("c", None)]);
    assert!(matches!(action, Action::Refuse(why) if why.contains("answers c")));
}

#[test]
fn a_directory_replaced_in_the_middle_is_refused_on_both_sides() {
    let held = decree(9, three());
    let list = [
        ("a", answer("a", 1, Standing::Accepted(held.clone()))),
        ("c", answer("c", 3, Standing::Empty)),
    ];
    let action = step(&founder("b", 22, ABC), &Standing::Empty, &list);
    assert!(matches!(action, Action::Refuse(why) if why.contains("start again")));
    let list = [("b", answer("b", 22, Standing::Empty)), ("c", None)];
    let action = step(&founder("a", 1, ABC), &Standing::Accepted(held), &list);
    assert!(matches!(action, Action::Refuse(why) if why.contains("start again")));
}

#[test]
fn whoever_holds_the_decree_offers_it_and_finishes() {
    let held = Standing::Accepted(decree(9, three()));
    let list = [
        ("a", answer("a", 1, held.clone())),
        ("c", answer("c", 3, Standing::Empty)),
    ];
    let b = founder("b", 2, ABC);
    assert_eq!(
        step(&b, &held, &list),
        Action::Offer(vec!["c:7500".to_owned()])
    );
    // The proposer is gone, but it held the decree before anybody else did.
    let list = [("a", None), ("c", answer("c", 3, held.clone()))];
    let everyone = vec!["a:7500".to_owned(), "c:7500".to_owned()];
    assert_eq!(step(&b, &held, &list), Action::Decide(everyone.clone()));
    let list = [("a", None), ("c", None)];
    assert!(matches!(step(&b, &held, &list), Action::Wait(_)));
    // What was accepted once stays accepted.
    let known = BTreeSet::from([StoreId(3)]);
    assert_eq!(
        next(&b, &held, &answers(&list), &known),
        Action::Decide(everyone)
    );
}

#[test]
fn a_foreign_decree_is_refused() {
    let mine = Standing::Accepted(decree(9, three()));
    let list = [
        ("a", answer("a", 1, Standing::Accepted(decree(10, three())))),
        ("c", None),
    ];
    let action = step(&founder("b", 2, ABC), &mine, &list);
    assert!(matches!(action, Action::Refuse(why) if why.contains("000000000000000a")));
}

/// A ledger in memory that can fail.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    decree: Option<(Decree, bool)>,
    fails: bool,
}

impl Ledger for Memory {
    fn keep(&mut self, decree: &Decree, decided: bool) -> io::Result<()> {
        let mut memory = self.0.lock().expect("no panic while held");
        if memory.fails {
            return Err(io::Error::other("planted"));
        }
        memory.decree = Some((decree.clone(), decided));
        Ok(())
    }

    fn join(&mut self, founding: &Decree, _: Arc<RingDecree>) -> io::Result<()> {
        self.keep(founding, true)
    }
}

impl Memory {
    fn standing(&self) -> Standing {
        match self.0.lock().expect("no panic while held").decree.clone() {
            None => Standing::Empty,
            Some((decree, false)) => Standing::Accepted(Arc::new(decree)),
            Some((decree, true)) => Standing::Member(Arc::new(decree)),
        }
    }
}

fn roster(name: &str, store: u64, memory: &Memory) -> Arc<Roster> {
    Roster::new(
        member(name, store),
        7,
        memory.standing(),
        Box::new(memory.clone()),
    )
}

#[test]
fn a_roster_accepts_one_decree_durably_and_no_other() {
    let memory = Memory::default();
    let roster = roster("b", 2, &memory);
    let first = Decree::clone(&decree(9, three()));
    roster.adopt(first.clone(), false).expect("listed");
    assert_eq!(
        memory.standing(),
        Standing::Accepted(Arc::new(first.clone()))
    );
    let other = Decree::clone(&decree(10, three()));
    assert!(roster.adopt(other, true).is_err());
    assert_eq!(
        memory.standing(),
        Standing::Accepted(Arc::new(first.clone()))
    );
    roster.adopt(first.clone(), true).expect("the same");
    // A late offer does not undo the decision.
    roster.adopt(first.clone(), false).expect("the same");
    assert_eq!(memory.standing(), Standing::Member(Arc::new(first)));
}

#[test]
fn a_roster_refuses_what_does_not_list_it_and_what_it_cannot_keep() {
    let memory = Memory::default();
    let stranger = roster("d", 4, &memory);
    assert!(
        stranger
            .adopt(Decree::clone(&decree(9, three())), false)
            .is_err()
    );
    let replaced = roster("b", 5, &memory);
    assert!(
        replaced
            .adopt(Decree::clone(&decree(9, three())), false)
            .is_err()
    );
    let failing = roster("b", 2, &memory);
    memory.0.lock().expect("no panic while held").fails = true;
    assert!(
        failing
            .adopt(Decree::clone(&decree(9, three())), false)
            .is_err()
    );
    assert_eq!(failing.standing(), Standing::Empty);
}

#[test]
fn a_decree_survives_both_ways_of_travel() {
    let first = Decree::clone(&decree(9, three()));
    assert_eq!(Decree::decode(&first.encode()), Ok(first.clone()));
    assert!(Decree::decode(&first.encode()[1..]).is_err());
    assert_eq!(
        Decree::from_wire(ringfort_proto::peer::Decree {
            cluster_id: 0,
            ..first.to_wire()
        }),
        Err(BadDecree::NoCluster)
    );
}

#[test]
fn the_hash_of_a_list_ignores_order_and_case_of_hosts_only() {
    use crate::config::{InitialMember, Setting};
    let hash = |text: &str| initial_hash(&Vec::<InitialMember>::parse(text).expect(text));
    assert_eq!(hash("a=x:1,b=y:2"), hash("b=Y:2, a=x:1"));
    assert_ne!(hash("a=x:1,b=y:2"), hash("a=x:1,b=y:3"));
    assert_ne!(hash("a=x:1,b=y:2"), hash("b=x:1,a=y:2"));
    assert_eq!(hash(""), 0);
}

proptest! {
    /// Nodes step in any order, are cut off and restart from what they kept: at most one decree is ever made, none
    /// serves before all have accepted, and once all are left alone all serve it.
    #[test]
    fn one_decree_whatever_the_order(schedule in prop::collection::vec((0_usize..3, 0_u8..8, any::<bool>()), 0..60)) {
        let mut nodes = Nodes::new();
        for (node, reachable, restart) in schedule {
            nodes.turn(node, reachable, restart);
        }
        for _ in 0..8 {
            for node in 0..3 {
                nodes.turn(node, 0b111, false);
            }
        }
        prop_assert!(nodes.drawn <= 1);
        for memory in &nodes.memories {
            prop_assert!(matches!(memory.standing(), Standing::Member(_)));
        }
    }
}

struct Nodes {
    memories: Vec<Memory>,
    rosters: Vec<Arc<Roster>>,
    holders: Vec<BTreeSet<StoreId>>,
    drawn: u64,
}

impl Nodes {
    fn new() -> Self {
        let memories = vec![Memory::default(); 3]
            .iter()
            .map(|_| Memory::default())
            .collect();
        let mut nodes = Nodes {
            memories,
            rosters: Vec::new(),
            holders: vec![BTreeSet::new(); 3],
            drawn: 0,
        };
        nodes.rosters = (0..3).map(|i| nodes.start(i)).collect();
        nodes
    }

    fn start(&self, node: usize) -> Arc<Roster> {
        roster(ABC[node], node as u64 + 1, &self.memories[node])
    }

    /// One round of questions and one action; `reachable` are the nodes that hear this one, as bits.
    fn turn(&mut self, node: usize, reachable: u8, restart: bool) {
        if restart {
            self.rosters[node] = self.start(node);
            self.holders[node].clear();
        }
        let me = founder(ABC[node], node as u64 + 1, ABC);
        let standing = self.rosters[node].standing();
        let hears = |i: usize| reachable & (1 << i) != 0;
        let answers = (0..3)
            .filter(|i| *i != node)
            .map(|i| {
                let answer = hears(i).then(|| answer_from_wire(self.rosters[i].hello()));
                (format!("{}:7500", ABC[i]), answer.flatten())
            })
            .collect();
        let index = |addr: &String| ABC.iter().position(|n| addr.starts_with(n)).expect("known");
        match next(&me, &standing, &answers, &self.holders[node]) {
            Action::Propose(members) => {
                self.drawn += 1;
                let made = decree(self.drawn, members);
                self.rosters[node]
                    .adopt(Decree::clone(&made), false)
                    .expect("empty");
            }
            Action::Offer(to) => {
                for i in to.iter().map(index).filter(|i| hears(*i)) {
                    let held = standing.decree().expect("offers what it holds");
                    self.rosters[i]
                        .adopt(Decree::clone(held), false)
                        .expect("listed");
                    self.holders[node].insert(StoreId(i as u64 + 1));
                }
            }
            Action::Decide(_) if matches!(standing, Standing::Accepted(_)) => {
                let held = standing.decree().expect("decides what it holds");
                for roster in &self.rosters {
                    assert_eq!(
                        roster.standing().decree(),
                        Some(held),
                        "served before all accepted"
                    );
                }
                self.rosters[node]
                    .adopt(Decree::clone(held), true)
                    .expect("its own");
            }
            Action::Decide(_) | Action::Wait(_) => {}
            Action::Join(..) => panic!("joins what it is to found"),
            Action::Refuse(why) => panic!("{why}"),
        }
    }
}
