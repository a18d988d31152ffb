//! A voice over its own identity file: what it said survives, and what it may not say it does not.

use std::collections::BTreeMap;

use ringfort_ring::{
    Change, Epoch, Member, NodeName, PlacementId, apply,
    consensus::{Ballot, Votes},
};
use ringfort_storage::disk::RealDisk;

use super::*;
use crate::testing::MemNet;

const CLUSTER: ClusterId = ClusterId(7);

fn founding() -> Layout {
    let member = |n: u64| Member {
        name: NodeName::new(format!("n{n}")).expect("valid"),
        placement_id: PlacementId(n),
        store_id: StoreId(n),
        tokens: 256,
        zone: String::new(),
        client_addr: format!("n{n}:7400"),
        peer_addr: format!("n{n}:7500"),
        http_addr: format!("n{n}:7600"),
    };
    Layout::new(Epoch(1), 8, 3, (1..=3).map(member).collect()).expect("valid")
}

fn council(dir: &tempfile::TempDir) -> Arc<Council> {
    let disk = Arc::new(RealDisk::open(dir.path()).expect("ours"));
    let identity = IdentityFile::load_or_create(disk, || Identity::new(1, 2, "n1"));
    let parts = Parts {
        cluster: CLUSTER,
        identity: Arc::new(identity.expect("readable")),
        founding: founding(),
        net: Arc::new(MemNet::default()),
        routes: Arc::default(),
    };
    Council::new(parts).expect("of this version")
}

fn moved(n: u64, host: &str) -> Decree {
    let change = Change::Addresses {
        name: NodeName::new(format!("n{n}")).expect("valid"),
        client_addr: format!("{host}:7400"),
        peer_addr: format!("{host}:7500"),
        http_addr: format!("{host}:7600"),
    };
    apply(&Decree::founding(founding()), &[change]).expect("fits")
}

fn ballot(round: u64) -> Ballot {
    Ballot {
        round,
        by: StoreId(2),
    }
}

fn accept(round: u64, value: Decree) -> Request<Decree> {
    Request::Accept {
        instance: Epoch(2),
        ballot: ballot(round),
        value,
    }
}

fn prepare(round: u64) -> Request<Decree> {
    Request::Prepare {
        instance: Epoch(2),
        ballot: ballot(round),
    }
}

#[test]
fn a_vote_and_a_decree_survive_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = council(&dir);
    let answer = first.vote(accept(3, moved(2, "x"))).expect("votes");
    assert_eq!(answer, Response::Accepted { ballot: ballot(3) });
    drop(first);
    let again = council(&dir);
    let answer = again.vote(prepare(4)).expect("votes");
    let accepted = Some((ballot(3), moved(2, "x")));
    assert_eq!(
        answer,
        Response::Promised {
            ballot: ballot(4),
            accepted
        }
    );
    assert!(again.adopt(Arc::new(moved(2, "x"))).expect("follows"));
    assert!(!again.adopt(Arc::new(moved(2, "x"))).expect("the same"));
    drop(again);
    let last = council(&dir);
    assert_eq!(*last.newest(), moved(2, "x"));
    assert_eq!(last.state().promises.votes, Votes::none(Epoch(3)));
    let answer = last.vote(prepare(9)).expect("answers");
    assert_eq!(answer, Response::Decided { newest: Epoch(2) });
}

#[test]
fn the_own_trackers_are_those_on_the_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let council = council(&dir);
    let trackers = |epoch| Trackers::starting_at(Epoch(epoch));
    council.hear([(StoreId(1), trackers(5)), (StoreId(2), trackers(5))]);
    council.hear([(StoreId(9), trackers(5))]);
    let history = council.history();
    assert_eq!(
        history.trackers_of(StoreId(1)),
        trackers(1),
        "only its own word"
    );
    assert_eq!(history.trackers_of(StoreId(2)), trackers(5));
    assert!(!history.known().contains_key(&StoreId(9)), "a stranger");
    let told = Arc::new(Mutex::new(Vec::new()));
    let said = told.clone();
    council.follow(Box::new(move |history: &History| {
        said.lock()
            .expect("whole")
            .push(history.trackers_of(StoreId(3)).ack);
    }));
    council.hear([(StoreId(3), trackers(2))]);
    council.hear([(StoreId(3), trackers(1))]);
    assert_eq!(*told.lock().expect("whole"), [Epoch(1), Epoch(2)]);
}

#[test]
fn what_may_not_follow_is_not_voted_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let council = council(&dir);
    let set = |tokens| Change::Set {
        name: NodeName::new("n2").expect("valid"),
        tokens: Some(tokens),
        zone: None,
    };
    let placed = apply(&Decree::founding(founding()), &[set(512)]).expect("fits");
    council.adopt(Arc::new(placed)).expect("follows");
    // Another change of owners while one is under way.
    let live = [2, 3].map(|epoch| {
        let members = founding().members().to_vec();
        Layout::new(Epoch(epoch), 8, 3, members).expect("valid")
    });
    let third = Decree::new(Epoch(3), live.to_vec(), BTreeMap::new()).expect("valid");
    let refused = council.vote(Request::Accept {
        instance: Epoch(3),
        ballot: ballot(1),
        value: third,
    });
    assert!(
        matches!(refused, Err(CouncilError::NotSuccessor(_))),
        "{refused:?}"
    );
    assert_eq!(council.state().promises.votes, Votes::none(Epoch(3)));
}

#[test]
fn a_tracker_is_durable_before_it_is_told_and_only_grows() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = council(&dir);
    let told = Arc::new(Mutex::new(Vec::new()));
    let (said, disk) = (told.clone(), dir.path().to_owned());
    first.follow(Box::new(move |history: &History| {
        let disk = Arc::new(RealDisk::open(&disk).expect("ours"));
        let identity = IdentityFile::load_or_create(disk, || Identity::new(1, 2, "n1"));
        let identity = identity.expect("readable").current();
        let kept = promises_of(&identity, &founding()).expect("of this version");
        let mine = history.trackers_of(StoreId(1));
        assert_eq!(kept.trackers, mine);
        said.lock().expect("whole").push(mine.ack);
    }));
    let mut changes = first.changes();
    let higher = Trackers {
        ack: Epoch(2),
        ..Trackers::starting_at(Epoch(1))
    };
    first.raise(higher).expect("durable");
    assert!(changes.has_changed().expect("lives"));
    changes.mark_unchanged();
    first
        .raise(Trackers::starting_at(Epoch(1)))
        .expect("nothing to do");
    first.raise(higher).expect("nothing to do");
    assert!(!changes.has_changed().expect("lives"));
    assert_eq!(*told.lock().expect("whole"), [Epoch(1), Epoch(2)]);
    let request = peer::DecreesRequest {
        mine: Some(wire::trackers_to_wire(StoreId(2), higher)),
        cluster_id: CLUSTER.0,
        newest: Default::default(),
    };
    let answer = first.answer_decrees(&request).expect("sense");
    let mine = answer.mine.map(wire::trackers_from_wire);
    assert_eq!(mine, Some((StoreId(1), higher)));
    assert_eq!(first.history().trackers_of(StoreId(2)), higher);
    drop(first);
    let again = council(&dir);
    assert_eq!(again.history().trackers_of(StoreId(1)), higher);
}

#[test]
fn two_decrees_for_one_epoch_are_an_alarm_and_change_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let council = council(&dir);
    council.adopt(Arc::new(moved(2, "x"))).expect("follows");
    let refused = council.adopt(Arc::new(moved(2, "y")));
    assert!(
        matches!(refused, Err(CouncilError::TwoDecrees(_))),
        "{refused:?}"
    );
    assert_eq!(*council.newest(), moved(2, "x"));
}

#[test]
fn a_word_of_another_cluster_or_without_sense_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let council = council(&dir);
    let request = wire::request_to_wire(8, &prepare(1));
    assert!(matches!(
        council.answer_vote(request),
        Err(CouncilError::WrongCluster { .. })
    ));
    let mut request = wire::request_to_wire(CLUSTER.0, &accept(1, moved(2, "x")));
    request.instance = 5;
    assert!(matches!(
        council.answer_vote(request),
        Err(CouncilError::Message(_))
    ));
    let request = peer::DecreesRequest {
        mine: None,
        cluster_id: CLUSTER.0,
        newest: vec![1, 2, 3].into(),
    };
    assert!(matches!(
        council.answer_decrees(&request),
        Err(CouncilError::Decree(_))
    ));
    assert_eq!(council.newest().epoch(), Epoch(1));
}

#[test]
fn questions_and_answers_travel() {
    for request in [prepare(1), accept(2, moved(1, "x"))] {
        let (asked, back) =
            wire::request_from_wire(wire::request_to_wire(7, &request)).expect("sense");
        assert_eq!((asked, back), (request.ballot(), request));
    }
    let newest = Epoch(4);
    let answers = [
        Response::Promised {
            ballot: ballot(1),
            accepted: None,
        },
        Response::Promised {
            ballot: ballot(2),
            accepted: Some((ballot(1), moved(1, "x"))),
        },
        Response::Accepted { ballot: ballot(1) },
        Response::Outbid {
            ballot: ballot(1),
            promised: ballot(5),
        },
        Response::Decided { newest },
        Response::Behind { newest },
        Response::NoVote,
    ];
    for answer in answers {
        let asked = match &answer {
            Response::Promised { ballot, .. } => *ballot,
            _ => ballot(1),
        };
        let wire = wire::response_to_wire(StoreId(1), asked, answer.clone());
        assert_eq!(wire::response_from_wire(wire).expect("sense"), answer);
    }
}
