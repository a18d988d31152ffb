//! The `Kv` service over real connections: typed errors, sessions, scans.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use ringfort_proto::{
    Failure, Reason,
    v1::{self, kv_client::KvClient, operation_result::Kind as Answer},
};
use tonic::{Request, Status, transport::Channel};

use crate::{
    limits::{BATCH_ANSWER_BYTES_MAX, Limits},
    testing::*,
};

const LONG: Duration = Duration::from_secs(20);

/// A request with a deadline.
fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(LONG);
    request
}

fn reason(status: &Status) -> Reason {
    Failure::from_status(status)
        .unwrap_or_else(|| panic!("not typed: {status:?}"))
        .reason
}

#[tokio::test]
async fn every_bad_put_has_its_typed_error() {
    let cluster = Cluster::of_three().await;
    let mut client = cluster.nodes[0].client().await;
    let long_key = Some(v1::Key {
        namespace: String::new(),
        key: vec![0; 400].into(),
    });
    let table = [
        (
            Reason::EmptyKey,
            v1::PutRequest {
                key: None,
                ..put_request("", "v")
            },
        ),
        (Reason::EmptyKey, put_request("", "v")),
        (
            Reason::TooLarge,
            v1::PutRequest {
                key: long_key,
                ..put_request("", "v")
            },
        ),
        (
            Reason::TooLarge,
            put_request("k", &"x".repeat((1 << 20) + 1)),
        ),
        (
            Reason::BadQuorum,
            v1::PutRequest {
                options: Some(w(0)),
                ..put_request("k", "v")
            },
        ),
        (
            Reason::BadQuorum,
            v1::PutRequest {
                options: Some(w(4)),
                ..put_request("k", "v")
            },
        ),
        (
            Reason::BadContext,
            v1::PutRequest {
                context: Bytes::from_static(b"?"),
                ..put_request("k", "v")
            },
        ),
    ];
    for (expected, request) in table {
        let status = client.put(timed(request)).await.expect_err("bad");
        assert_eq!(
            (reason(&status), status.code()),
            (expected, expected.code())
        );
    }
    let status = client
        .put(put_request("k", "v"))
        .await
        .expect_err("no deadline");
    assert_eq!(reason(&status), Reason::NoDeadline);
    let delete = v1::DeleteRequest {
        key: key("k"),
        ..v1::DeleteRequest::default()
    };
    let status = client.delete(timed(delete)).await.expect_err("no context");
    assert_eq!(reason(&status), Reason::BadContext);
    let scan = v1::ScanRequest {
        cursor: Bytes::from_static(b"?"),
        ..v1::ScanRequest::default()
    };
    let status = client.scan(timed(scan)).await.expect_err("no cursor");
    assert_eq!(reason(&status), Reason::BadRequest);
    let status = client
        .batch_get(v1::BatchGetRequest::default())
        .await
        .expect_err("no deadline");
    assert_eq!(reason(&status), Reason::NoDeadline);
}

#[tokio::test]
async fn unary_verbs_and_batches_answer_in_order() {
    let cluster = Cluster::of_three().await;
    let mut client = cluster.nodes[0].client().await;
    let put = client
        .put(timed(put_request("a", "1")))
        .await
        .expect("puts")
        .into_inner();
    let get = v1::GetRequest {
        key: key("a"),
        options: None,
        ..v1::GetRequest::default()
    };
    let got = client
        .get(timed(get.clone()))
        .await
        .expect("gets")
        .into_inner();
    assert_eq!(got.context, put.context);
    let mutations = vec![
        v1::Mutation {
            kind: Some(v1::mutation::Kind::Put(put_request("b", "2"))),
        },
        v1::Mutation {
            kind: Some(v1::mutation::Kind::Put(put_request("", "no key"))),
        },
        v1::Mutation {
            kind: Some(v1::mutation::Kind::Delete(v1::DeleteRequest {
                key: key("a"),
                context: put.context,
                options: None,
                ..v1::DeleteRequest::default()
            })),
        },
    ];
    let written = client
        .batch_write(timed(v1::BatchWriteRequest { mutations }))
        .await;
    let kinds: Vec<_> = written
        .expect("answers")
        .into_inner()
        .results
        .into_iter()
        .map(|r| r.kind)
        .collect();
    assert!(matches!(
        kinds[..],
        [
            Some(Answer::Put(_)),
            Some(Answer::Error(_)),
            Some(Answer::Delete(_))
        ]
    ));
    let gets = vec![
        get,
        v1::GetRequest {
            key: key("b"),
            options: None,
            ..v1::GetRequest::default()
        },
    ];
    let read = client
        .batch_get(timed(v1::BatchGetRequest { gets }))
        .await
        .expect("answers")
        .into_inner();
    let counts = read.results.iter().map(|result| match &result.kind {
        Some(Answer::Get(get)) => get.siblings.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(counts.collect::<Vec<_>>(), [0, 1]);
    let layout = client
        .get_layout(v1::GetLayoutRequest {})
        .await
        .expect("answers")
        .into_inner();
    assert_eq!(
        (layout.cluster_id, layout.newest_epoch, layout.node.as_str()),
        (CLUSTER.0, 1, "n0")
    );
}

/// Opens a session: where operations go in, and results come out.
async fn session(
    client: &mut KvClient<Channel>,
) -> (
    tokio::sync::mpsc::Sender<v1::SessionRequest>,
    tonic::Streaming<v1::SessionResponse>,
) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1_000);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let responses = client.session(requests).await.expect("opens").into_inner();
    (sender, responses)
}

fn operation(id: u64, kind: v1::operation::Kind) -> v1::Operation {
    v1::Operation {
        id,
        deadline_us: 20_000_000,
        kind: Some(kind),
    }
}

#[tokio::test]
async fn a_session_answers_more_than_its_credit() {
    let limits = Limits {
        session_operations: 64,
        session_bytes: 4_096,
        ..Limits::default()
    };
    let cluster = Cluster::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    let mut client = cluster.nodes[0].client().await;
    let (sender, mut responses) = session(&mut client).await;
    for batch in 0..10 {
        let operations =
            (0..200).map(|n| operation(200 * batch + n, put(&format!("k{batch}-{n}"), "v")));
        sender
            .send(v1::SessionRequest {
                operations: operations.collect(),
            })
            .await
            .expect("room");
    }
    drop(sender);
    let mut answered = BTreeSet::new();
    while let Some(message) = responses.message().await.expect("goes on") {
        assert_eq!((message.read_epoch, message.draining), (1, false));
        for result in message.results {
            assert!(matches!(result.kind, Some(Answer::Put(_))), "{result:?}");
            assert!(answered.insert(result.id), "answered once");
        }
    }
    assert_eq!(answered.len(), 2_000);
}

#[tokio::test]
async fn a_session_without_credit_is_not_read() {
    let limits = Limits {
        session_operations: 8,
        ..Limits::default()
    };
    let cluster = Cluster::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    cluster.nodes.iter().for_each(|node| node.hold_log(true));
    let node = &cluster.nodes[0];
    let mut client = node.client().await;
    let (sender, mut responses) = session(&mut client).await;
    for n in 0..50 {
        let operations = vec![operation(n, put(&format!("k{n}"), "v"))];
        sender
            .send(v1::SessionRequest { operations })
            .await
            .expect("room");
    }
    eventually("the credit is used up", async || {
        node.data.coordinator.pending() == 8
    })
    .await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
        assert_eq!(node.data.coordinator.pending(), 8);
    }
    cluster.nodes.iter().for_each(|node| node.hold_log(false));
    let mut answers = 0;
    while answers < 50 {
        answers += responses
            .message()
            .await
            .expect("goes on")
            .expect("goes on")
            .results
            .len();
    }
}

#[tokio::test]
async fn writes_of_a_dropped_session_run_on() {
    let cluster = Cluster::of_three().await;
    cluster.nodes.iter().for_each(|node| node.hold_log(true));
    let node = &cluster.nodes[0];
    let mut client = node.client().await;
    let (sender, responses) = session(&mut client).await;
    let operations = (0..20)
        .map(|n| operation(n, put(&format!("k{n}"), "v")))
        .collect();
    sender
        .send(v1::SessionRequest { operations })
        .await
        .expect("room");
    eventually("all are in work", async || {
        node.data.coordinator.pending() == 20
    })
    .await;
    drop((sender, responses));
    let sessions = || {
        node.counters
            .sessions
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    eventually("the session is gone", async || sessions() == 0).await;
    cluster.nodes.iter().for_each(|node| node.hold_log(false));
    eventually("all have ended", async || {
        node.data.coordinator.pending() == 0
    })
    .await;
    for n in 0..20 {
        assert_eq!(
            values(cluster.nodes[1].run(get_r(&format!("k{n}"), 3)).await),
            ["v"]
        );
    }
}

#[tokio::test]
async fn sessions_are_limited_and_told_of_draining() {
    let limits = Limits {
        sessions: 1,
        ..Limits::default()
    };
    let cluster = Cluster::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    let node = &cluster.nodes[0];
    let mut client = node.client().await;
    let (sender, mut responses) = session(&mut client).await;
    let none = tokio_stream::wrappers::ReceiverStream::new(tokio::sync::mpsc::channel(1).1);
    let status = client.session(none).await.expect_err("one is open");
    assert_eq!(reason(&status), Reason::Overloaded);
    node.data.coordinator.drain();
    let news = responses
        .message()
        .await
        .expect("goes on")
        .expect("goes on");
    assert!(news.draining && news.results.is_empty());
    sender
        .send(v1::SessionRequest {
            operations: vec![operation(1, get("k"))],
        })
        .await
        .expect("room");
    let refused = responses
        .message()
        .await
        .expect("goes on")
        .expect("goes on");
    match &refused.results[0].kind {
        Some(Answer::Error(error)) => assert_eq!(error.reason, "DRAINING"),
        other => panic!("{other:?}"),
    }
    let status = client
        .put(timed(put_request("k", "v")))
        .await
        .expect_err("draining");
    assert_eq!(reason(&status), Reason::Draining);
}

#[tokio::test]
async fn the_answers_of_a_batch_are_bounded() {
    let cluster = Cluster::of_three().await;
    let node = &cluster.nodes[0];
    let mut client = node
        .client()
        .await
        .max_decoding_message_size(2 * BATCH_ANSWER_BYTES_MAX);
    put_ok(node.run(put("large", &"x".repeat(1 << 20))).await);
    let get = v1::GetRequest {
        key: key("large"),
        ..v1::GetRequest::default()
    };
    let batch = v1::BatchGetRequest {
        gets: vec![get; 40],
    };
    let answer = client.batch_get(timed(batch)).await.expect("a batch");
    let results = answer.into_inner().results;
    let (mut found, mut refused) = (0, 0);
    for result in &results {
        match &result.kind {
            Some(Answer::Get(get)) if get.siblings.len() == 1 => found += 1,
            Some(Answer::Error(error)) if error.reason == "TOO_LARGE" => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((found, refused), (31, 9));
}

/// All pages of a scan.
async fn scan(client: &mut KvClient<Channel>, request: v1::ScanRequest) -> Vec<v1::ScanEntry> {
    let mut entries = Vec::new();
    let mut cursor = Bytes::new();
    loop {
        let request = v1::ScanRequest {
            cursor,
            ..request.clone()
        };
        let page = client
            .scan(timed(request))
            .await
            .expect("a page")
            .into_inner();
        entries.extend(page.entries);
        cursor = page.cursor;
        if cursor.is_empty() {
            return entries;
        }
    }
}

#[tokio::test]
async fn a_scan_returns_every_key_once_in_order_from_any_node() {
    for nodes in [3, 5] {
        let cluster = Cluster::start(Options {
            nodes,
            partitions: 16,
            ..Options::default()
        })
        .await;
        let mut expected = BTreeSet::new();
        for n in 0..120 {
            let name = format!("k{n}");
            let context = put_ok(cluster.nodes[n % nodes].run(put(&name, "v")).await).context;
            if n % 10 == 0 {
                cluster.nodes[0]
                    .run(delete(&name, &context))
                    .await
                    .expect("deletes");
            } else {
                expected.insert(name);
            }
        }
        for node in &cluster.nodes {
            let mut client = node.client().await;
            let limit = v1::ScanRequest {
                limit: 7,
                ..v1::ScanRequest::default()
            };
            let entries = scan(&mut client, limit).await;
            let keys: Vec<_> = entries
                .iter()
                .filter_map(|entry| entry.key.as_ref())
                .collect();
            let tokens = keys
                .iter()
                .map(|k| ringfort_ring::token(k.namespace.as_bytes(), &k.key));
            assert!(tokens.is_sorted());
            let names: BTreeSet<_> = keys
                .iter()
                .map(|k| String::from_utf8_lossy(&k.key).into_owned())
                .collect();
            assert_eq!((names.len(), &names), (keys.len(), &expected));
            assert!(
                entries
                    .iter()
                    .all(|entry| entry.siblings.len() == 1 && !entry.context.is_empty())
            );
        }
        let mut client = cluster.nodes[0].client().await;
        let other = v1::ScanRequest {
            namespace: "other".to_owned(),
            ..v1::ScanRequest::default()
        };
        assert_eq!(scan(&mut client, other).await, []);
        let keys_only = v1::ScanRequest {
            keys_only: true,
            ..v1::ScanRequest::default()
        };
        assert!(
            scan(&mut client, keys_only)
                .await
                .iter()
                .all(|entry| entry.siblings.is_empty())
        );
    }
}

#[tokio::test]
async fn a_scan_at_r_misses_nothing_while_an_owner_is_down() {
    let cluster = Cluster::of_three().await;
    for n in 0..30 {
        put_ok(cluster.nodes[0].run(put(&format!("k{n}"), "v")).await);
    }
    cluster.kill(0).await;
    let mut client = cluster.nodes[2].client().await;
    assert_eq!(
        scan(&mut client, v1::ScanRequest::default()).await.len(),
        30
    );
    cluster.kill(1).await;
    let status = client
        .scan(timed(v1::ScanRequest::default()))
        .await
        .expect_err("one owner is left");
    assert_eq!(reason(&status), Reason::QuorumUnavailable);
}
