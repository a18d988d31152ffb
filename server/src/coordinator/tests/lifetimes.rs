//! What has expired, and what was deleted: gone for every reader alike, and back while it is kept.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use ringfort_proto::{
    Failure, Reason, v1, v1::operation::Kind, v1::operation_result::Kind as Answer,
};

use ringfort_storage::store::Read;

use crate::{coordinator::locate, limits::Limits, testing::*};

/// A put whose value lives for a second.
fn mortal(k: &str) -> Kind {
    Kind::Put(v1::PutRequest {
        ttl_ms: 1_000,
        ..put_request(k, "mortal")
    })
}

fn absent(k: &str) -> Kind {
    Kind::Put(v1::PutRequest {
        if_absent: true,
        ..put_request(k, "next")
    })
}

/// A read that also asks for what was deleted.
fn get_deleted(k: &str) -> Kind {
    Kind::Get(v1::GetRequest {
        key: key(k),
        deleted: true,
        ..v1::GetRequest::default()
    })
}

/// The values that can be undeleted.
fn deleted(answer: Result<Answer, Failure>) -> Vec<String> {
    let texts = get_ok(answer).deleted.into_iter();
    let texts = texts.map(|value| String::from_utf8(value.to_vec()).expect("text"));
    texts.collect()
}

async fn context(cluster: &Cluster, k: &str) -> Bytes {
    get_ok(cluster.nodes[0].run(get(k)).await).context
}

/// Deletes as seen at one node, at all owners.
async fn gone(cluster: &Cluster, at: usize, request: v1::DeleteRequest) {
    let options = Some(w(3));
    let delete = Kind::Delete(v1::DeleteRequest { options, ..request });
    let answer = cluster.nodes[at].run(delete).await;
    assert!(matches!(answer, Ok(Answer::Delete(_))), "{answer:?}");
}

#[tokio::test]
async fn what_has_expired_reads_as_deleted_wherever_it_is_read_and_changes_no_tree() {
    let cluster = Cluster::of_three().await;
    for k in ["read", "absent", "blind", "deleted"] {
        put_ok(cluster.nodes[0].run(mortal(k)).await);
        assert_eq!(values(cluster.nodes[1].run(get_r(k, 3)).await), ["mortal"]);
    }
    let trees = || {
        let partitions = 0..cluster.nodes[0].store.partitions();
        let trees = cluster.nodes.iter().flat_map(|node| {
            let partitions = partitions.clone();
            partitions.map(|partition| node.store.partition_tree(partition).tree)
        });
        trees.collect::<Vec<_>>()
    };
    let before = trees();
    for node in &cluster.nodes {
        node.clock.0.fetch_add(1_000, Ordering::AcqRel);
    }
    for node in &cluster.nodes {
        let found = get_ok(node.run(get_r("read", 3)).await);
        assert!(found.siblings.is_empty() && !found.context.is_empty());
        let mut client = node.client().await;
        let mut batch = tonic::Request::new(v1::BatchGetRequest {
            gets: vec![v1::GetRequest {
                key: key("read"),
                ..v1::GetRequest::default()
            }],
        });
        batch.set_timeout(Duration::from_secs(20));
        let results = client.batch_get(batch).await.expect("a batch").into_inner();
        let first = results.results.into_iter().next().and_then(|r| r.kind);
        assert!(matches!(first, Some(Answer::Get(get)) if get.siblings.is_empty()));
        let mut scan = tonic::Request::new(v1::ScanRequest::default());
        scan.set_timeout(Duration::from_secs(20));
        let page = client.scan(scan).await.expect("a page").into_inner();
        assert!(page.entries.is_empty(), "{page:?}");
    }
    assert_eq!(trees(), before);
    // For a write it is not there either, and its writer gets a context of a value that stands alone.
    for (k, write) in [
        ("absent", absent("absent")),
        ("blind", put("blind", "next")),
    ] {
        let written = put_ok(cluster.nodes[2].run(write).await);
        assert_eq!((written.siblings, written.context.is_empty()), (1, false));
        assert_eq!(values(cluster.nodes[1].run(get_r(k, 3)).await), ["next"]);
    }
    // A delete of it keeps nothing that nobody could read any more.
    let request = v1::DeleteRequest {
        key: key("deleted"),
        context: context(&cluster, "deleted").await,
        ..v1::DeleteRequest::default()
    };
    gone(&cluster, 0, request).await;
    assert!(deleted(cluster.nodes[1].run(get_deleted("deleted")).await).is_empty());
}

#[tokio::test]
async fn what_was_deleted_is_told_to_who_asks_until_its_window_ends() {
    const WINDOW: Duration = Duration::from_millis(400);
    let cluster = Cluster::start(Options {
        limits: Limits {
            soft_delete: WINDOW,
            ..Limits::default()
        },
        ..Options::default()
    })
    .await;
    put_ok(cluster.nodes[0].run(put("k", "v")).await);
    let request = v1::DeleteRequest {
        key: key("k"),
        context: context(&cluster, "k").await,
        ..v1::DeleteRequest::default()
    };
    // Two deletes that do not know of each other keep one value.
    gone(&cluster, 0, request.clone()).await;
    gone(&cluster, 1, request).await;
    let found = get_ok(cluster.nodes[2].run(get("k")).await);
    assert!(found.siblings.is_empty() && found.deleted.is_empty());
    let found = get_ok(cluster.nodes[2].run(get_deleted("k")).await);
    assert_eq!(
        (found.siblings.len(), &found.deleted[..]),
        (0, &[Bytes::from("v")][..])
    );
    // Undelete is a put with the context of that read: then nothing is deleted any more.
    put_ok(
        cluster.nodes[1]
            .run(put_over("k", "v", &found.context))
            .await,
    );
    let found = get_ok(cluster.nodes[0].run(get_deleted("k")).await);
    assert_eq!((found.siblings.len(), found.deleted.len()), (1, 0));
    let request = v1::DeleteRequest {
        key: key("k"),
        context: found.context,
        ..v1::DeleteRequest::default()
    };
    gone(&cluster, 2, request).await;
    tokio::time::sleep(WINDOW).await;
    for node in &cluster.nodes {
        assert!(deleted(node.run(get_deleted("k")).await).is_empty());
    }
}

#[tokio::test]
async fn a_purge_keeps_nothing_and_neither_does_a_cluster_without_a_window() {
    for (window, purge, kept) in [(60, false, 1), (60, true, 0), (0, false, 0)] {
        let cluster = Cluster::start(Options {
            limits: Limits {
                soft_delete: Duration::from_secs(window),
                ..Limits::default()
            },
            ..Options::default()
        })
        .await;
        put_ok(cluster.nodes[0].run(put("k", "v")).await);
        let request = v1::DeleteRequest {
            key: key("k"),
            context: context(&cluster, "k").await,
            purge,
            ..v1::DeleteRequest::default()
        };
        gone(&cluster, 1, request).await;
        assert_eq!(
            deleted(cluster.nodes[0].run(get_deleted("k")).await).len(),
            kept
        );
        let node = &cluster.nodes[2];
        let located = locate(key("k").as_ref(), node.views.current().layout());
        let record = node.store.read(&located.expect("a key").0);
        let Read::Found(record) = record else {
            panic!("{record:?}");
        };
        assert_eq!(record.object().siblings()[0].values().len(), kept);
    }
    let cluster = Cluster::of_three().await;
    let without = v1::DeleteRequest {
        key: key("k"),
        purge: true,
        ..v1::DeleteRequest::default()
    };
    let refused = cluster.nodes[0].run(Kind::Delete(without)).await;
    assert_eq!(refused.expect_err("no context").reason, Reason::BadContext);
}
