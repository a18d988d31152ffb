//! Two live layouts: a fourth node joins three. W in each, R in one (I3), and who knew less counts anew (I10).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ringfort_proto::{Reason, peer, v1};
use ringfort_ring::{Decree, Epoch, History, StoreId, Trackers};

use super::repair::{leaf, write_behind};
use crate::{
    coordinator::{Origin, locate},
    testing::*,
};

/// Long enough for what is to be answered, short enough for what is not.
const DEADLINE: Duration = Duration::from_millis(500);

fn options() -> Options {
    Options {
        nodes: 4,
        joining: 1,
        ..Options::default()
    }
}

fn trackers([ack, merged, flipped]: [u64; 3]) -> Trackers {
    Trackers {
        ack: Epoch(ack),
        merged: Epoch(merged),
        flipped: Epoch(flipped),
    }
}

/// What is known once the nodes are so far.
fn through(far: [[u64; 3]; 4]) -> History {
    let mut history = history(&options());
    for (store, far) in (100..).zip(far) {
        history.hear(StoreId(store), trackers(far));
    }
    history
}

/// A key that the fourth node is given, and who owned it besides: two that keep it, and one that is to lose it.
struct Given {
    cluster: Cluster,
    key: String,
    keeps: [usize; 2],
    loses: usize,
}

const NEW: usize = 3;

impl Given {
    async fn start(history: &History) -> Given {
        let cluster = Cluster::start(options()).await;
        for node in &cluster.nodes {
            node.know(history);
        }
        let view = cluster.nodes[0].views.current();
        let newer = &view.live()[1];
        let (name, owners) = (0..)
            .find_map(|n| {
                let name = format!("k{n}");
                let located = locate(key(&name).as_ref(), newer.layout()).expect("a key");
                let owners = newer.owners(located.1).to_vec();
                owners.contains(&(NEW as u16)).then_some((name, owners))
            })
            .expect("the new node is given some");
        let mut keeps = owners.into_iter().map(usize::from).filter(|&o| o != NEW);
        let keeps = [keeps.next().expect("two"), keeps.next().expect("two")];
        let loses = (0..NEW).find(|n| !keeps.contains(n)).expect("the third");
        Given {
            cluster,
            key: name,
            keeps,
            loses,
        }
    }

    fn node(&self, index: usize) -> &Node {
        &self.cluster.nodes[index]
    }

    fn hold(&self, held: &[usize]) {
        for (index, node) in self.cluster.nodes.iter().enumerate() {
            node.hold_log(held.contains(&index));
        }
    }

    async fn put(&self, at: usize, value: &str) -> Result<v1::PutResponse, (Reason, String)> {
        let results = self
            .node(at)
            .start_op(put(&self.key, value), DEADLINE, Origin::Client);
        match outcome(results).await {
            Ok(answer) => Ok(put_ok(Ok(answer))),
            Err(failure) => Err((
                failure.reason,
                ["acks", "need"].map(|n| &*failure.metadata[n]).join("/"),
            )),
        }
    }
}

#[tokio::test]
async fn a_write_wants_its_copies_in_both_layouts() {
    let given = Given::start(&through([[2, 1, 1]; 4])).await;
    let [at, keeps] = given.keeps;
    let put = given.put(at, "1").await.expect("all store it");
    let evidence = put.evidence.expect("is told");
    assert_eq!(evidence.owners_asked, 4);
    assert!(evidence.owners_answered >= 2 && evidence.copies_durable >= 2);
    let short = |acks| Err((Reason::OutcomeUnknown, format!("{acks}/2")));
    // Two copies of the newer layout's owners are one of the older's; and the other way round.
    for held in [[keeps, given.loses], [keeps, NEW]] {
        given.hold(&held);
        assert_eq!(given.put(at, "2").await.map(|_| ()), short(1), "{held:?}");
    }
    given.hold(&[keeps]);
    let put = given.put(at, "3").await.expect("two of each");
    assert_eq!(put.evidence.expect("is told").copies_durable, 3);
    given.hold(&[given.loses, NEW]);
    let put = given.put(at, "4").await.expect("the same two of each");
    assert_eq!(put.evidence.expect("is told").copies_durable, 2);
    given.hold(&[]);
}

/// A copy that the mover has forgotten by then would stay for ever, and be nobody's.
#[tokio::test]
async fn a_read_that_outlives_its_layout_repairs_no_copy_of_who_has_lost_the_key() {
    let given = Given::start(&through([[2, 2, 1]; 4])).await;
    let [differs, late] = given.keeps.map(|keeps| given.node(keeps));
    let reader = given.node(given.loses);
    write_behind(differs, &given.key, "v", 1);
    late.pool.hold();
    let before = leaf(reader, &given.key);
    assert_eq!(values(reader.run(get_r(&given.key, 2)).await), ["v"]);
    let newer = reader.views.current().live()[1].layout().clone();
    let retired = Decree::new(Epoch(3), vec![newer], BTreeMap::new()).expect("valid");
    reader.know(&History::new(Arc::new(retired)));
    late.pool.release();
    eventually("the one that keeps it is repaired", async || {
        leaf(late, &given.key) == leaf(differs, &given.key)
    })
    .await;
    assert_eq!(leaf(reader, &given.key), before, "nothing is left there");
}

#[tokio::test]
async fn one_that_is_to_lose_a_key_coordinates_it_until_it_reads_elsewhere() {
    let given = Given::start(&through([[2, 2, 1]; 4])).await;
    let loses = given.node(given.loses);
    let put = given.put(given.loses, "v").await.expect("all store it");
    assert_eq!(put.evidence.expect("is told").owners_asked, 4);
    let read = get_ok(loses.run(get_r(&given.key, 3)).await);
    let evidence = read.evidence.expect("is told");
    assert_eq!((evidence.owners_asked, evidence.owners_answered), (3, 3));
    // The one that is given it sends on.
    assert_eq!(values(given.node(NEW).run(get(&given.key)).await), ["v"]);
    let sent_on = || {
        given
            .node(NEW)
            .counters
            .forwards
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    assert_eq!(sent_on(), 1);
    for node in &given.cluster.nodes {
        node.know(&through([[2, 2, 2]; 4]));
    }
    let read = get_ok(given.node(NEW).run(get_r(&given.key, 3)).await);
    assert_eq!(read.evidence.expect("is told").owners_answered, 3);
    assert_eq!(sent_on(), 1, "by now it coordinates");
    assert_eq!(values(loses.run(get(&given.key)).await), ["v"]);
    let sent_on = loses
        .counters
        .forwards
        .load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(sent_on, 1, "and the other one does not");
}

#[tokio::test]
async fn a_store_takes_a_partition_that_it_is_given_past_its_ack_alone() {
    let given = Given::start(&through([[1, 1, 1]; 4])).await;
    let at = given.keeps[0];
    let refused = || {
        let counters = &given.node(NEW).counters;
        counters
            .peer_refused
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    given.hold(&[given.loses]);
    given
        .put(at, "v")
        .await
        .expect("those that keep it are enough");
    let seen = async {
        while refused() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, seen).await.expect("refused");
    assert!(
        given.node(NEW).store.stats().last_sequence == 0,
        "nothing is kept"
    );
    given.hold(&[given.keeps[1]]);
    assert_eq!(
        given
            .put(at, "v")
            .await
            .expect_err("one of the newer is left"),
        (Reason::OutcomeUnknown, "1/2".to_owned())
    );
    given.hold(&[]);
}

#[tokio::test]
async fn a_write_by_an_older_decree_is_counted_anew_once_the_newer_is_known() {
    let given = Given::start(&through([[2, 1, 1]; 4])).await;
    let [at, keeps] = given.keeps;
    let before = history(&Options::default());
    let at_node = given.node(at);
    at_node.know(&before);
    // Never told, it does not know what became of the write.
    let failure = given.put(at, "1").await.expect_err("refused by both");
    assert_eq!(failure, (Reason::OutcomeUnknown, "1/2".to_owned()));
    // Told in time, it sends the same object to all four.
    let minted = at_node.store.stats().last_sequence;
    let results = at_node.start_op(
        put(&given.key, "2"),
        Duration::from_secs(30),
        Origin::Client,
    );
    let refused = async {
        let refused = |n: usize| {
            let counters = &given.node(n).counters;
            counters
                .peer_refused
                .load(std::sync::atomic::Ordering::Relaxed)
        };
        while refused(keeps) < 2 || refused(given.loses) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), refused)
        .await
        .expect("refused");
    at_node.know(&through([[2, 1, 1]; 4]));
    let put = put_ok(outcome(results).await);
    assert_eq!(put.evidence.expect("is told").owners_asked, 4);
    assert_eq!(at_node.store.stats().last_sequence, minted + 1, "one dot");
    let read = get_ok(at_node.run(get_r(&given.key, 3)).await);
    let values: Vec<_> = read.siblings.iter().map(|s| &s.value[..]).collect();
    assert_eq!(values, [b"1", b"2"]);
}

#[tokio::test]
async fn what_is_refused_says_which_decree_is_newer() {
    let given = Given::start(&through([[2, 1, 1]; 4])).await;
    let [at, keeps] = given.keeps;
    let links = &given.node(at).data.links;
    let mut client = links
        .client(links.peer(&given.node(keeps).member()))
        .expect("connected");
    let batch = |fence, epoch| peer::Batch {
        fence: Some(peer::Fence {
            cluster_id: CLUSTER.0,
            epoch: fence,
            store_id: 101,
            durable_sequence: 0,
        }),
        stores: vec![peer::Store {
            id: 7,
            key: bytes::Bytes::from_static(b"\0\x07defaultk"),
            epoch,
            ..peer::Store::default()
        }],
        ..peer::Batch::default()
    };
    // What counts is by which decree the owners were counted, however new the fence of the message is.
    for (fence, epoch) in [(1, 1), (2, 1), (3, 1)] {
        let sent = client.exchange(futures::stream::iter([batch(fence, epoch)]));
        let mut replies = sent.await.expect("opens").into_inner();
        let replies = replies
            .message()
            .await
            .expect("answers")
            .expect("a message");
        let refused = &replies.refused[0];
        assert_eq!((refused.reason.as_str(), refused.epoch), ("STALE_EPOCH", 2));
        assert_eq!(replies.fence.expect("has one").epoch, 2);
    }
    let ahead = given.node(keeps).data.fences.ahead();
    let ahead = ahead.borrow().expect("heard of a newer one");
    assert_eq!((ahead.epoch, ahead.store), (Epoch(3), StoreId(101)));
}
