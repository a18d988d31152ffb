//! Scans: all keys once, in pages, resumed anywhere.

use std::collections::BTreeSet;

use futures::StreamExt;
use ringfort_client::{Failure, Kind, Mutation, Reason, ResumeToken, fake::Fault};
use tokio::time::{Duration, Instant};

use crate::cluster;

async fn filled() -> (ringfort_client::fake::FakeCluster, ringfort_client::Client) {
    let (cluster, client) = cluster(3);
    let written = client
        .batch_write((0..57).map(|i| Mutation::put(format!("k{i}"), format!("v{i}"))))
        .await;
    assert!(written.iter().all(Result::is_ok));
    (cluster, client)
}

#[tokio::test(start_paused = true)]
async fn every_key_comes_once_whatever_the_page() {
    let (_cluster, client) = filled().await;
    for page in [1, 10, 19, 57, 1000] {
        let entries: Vec<_> = client
            .scan()
            .page_size(page)
            .map(Result::unwrap)
            .collect()
            .await;
        let keys: BTreeSet<_> = entries.iter().map(|entry| entry.key.clone()).collect();
        assert_eq!((entries.len(), keys.len()), (57, 57), "page {page}");
        assert!(
            entries
                .iter()
                .all(|entry| entry.siblings.len() == 1 && entry.context.is_some())
        );
        assert!(entries.iter().all(|entry| entry.namespace == "default"));
    }
    let entries: Vec<_> = client
        .scan()
        .keys_only()
        .map(Result::unwrap)
        .collect()
        .await;
    assert!(entries.len() == 57 && entries.iter().all(|entry| entry.siblings.is_empty()));
}

/// Of a client that does nothing else: no operation tells it which nodes are to be had.
#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_be_reached_holds_up_few_pages() {
    let (cluster, _writer) = filled().await;
    let client = cluster.client();
    cluster.hide(1);
    let started = Instant::now();
    let entries: Vec<_> = client
        .scan()
        .page_size(1)
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(entries.len(), 57);
    let held_up = started.elapsed();
    assert!(held_up < Duration::from_secs(5), "{held_up:?} for 57 pages");
}

#[tokio::test(start_paused = true)]
async fn a_scan_resumes_after_the_last_entry_it_yielded() {
    let (_cluster, client) = filled().await;
    let all: Vec<_> = client
        .scan()
        .map(|entry| entry.unwrap().key)
        .collect()
        .await;
    for stop in [0, 1, 9, 10, 11, 56, 57] {
        let mut scan = client.scan().page_size(10);
        let mut keys = Vec::new();
        for _ in 0..stop {
            keys.push(scan.next().await.unwrap().unwrap().key);
        }
        let token = ResumeToken::from_bytes(scan.resume_token().as_bytes().to_vec());
        drop(scan);
        keys.extend(
            client
                .scan()
                .page_size(10)
                .resume(&token)
                .map(|entry| entry.unwrap().key)
                .collect::<Vec<_>>()
                .await,
        );
        assert_eq!(keys, all, "stopped after {stop}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_go_meanwhile_shift_nothing() {
    let (_cluster, client) = filled().await;
    let all: Vec<_> = client
        .scan()
        .map(|entry| entry.unwrap().key)
        .collect()
        .await;
    let mut scan = client.scan().page_size(10);
    for _ in 0..15 {
        scan.next().await.unwrap().unwrap();
    }
    let token = scan.resume_token();
    for key in &all[10..16] {
        client.delete(key).await.unwrap();
    }
    let rest: Vec<_> = client
        .scan()
        .page_size(10)
        .resume(&token)
        .map(|entry| entry.unwrap().key)
        .collect()
        .await;
    assert_eq!(rest, all[16..]);
}

#[tokio::test(start_paused = true)]
async fn a_finished_scan_resumes_to_nothing() {
    let (_cluster, client) = filled().await;
    let mut scan = client.scan();
    while scan.next().await.is_some() {}
    assert_eq!(client.scan().resume(&scan.resume_token()).count().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_page_is_asked_for_again_and_an_error_ends_the_stream() {
    let (cluster, client) = filled().await;
    let unavailable = || Fault::Refuse(Failure::new(Reason::QuorumUnavailable, "1 of 2 alive"));
    cluster.inject(unavailable());
    assert_eq!(client.scan().map(Result::unwrap).count().await, 57);

    let mut scan = client.scan().page_size(10);
    for _ in 0..10 {
        scan.next().await.unwrap().unwrap();
    }
    for _ in 0..20 {
        cluster.inject(unavailable());
    }
    let error = scan.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(scan.next().await.is_none());
    // The faults are gone with a cluster's worth of attempts; the token goes on where it stopped.
    while cluster.faults_left() > 0 {
        let _ = client.scan().next().await;
    }
    assert_eq!(
        client
            .scan()
            .resume(&scan.resume_token())
            .map(Result::unwrap)
            .count()
            .await,
        47
    );
}

#[tokio::test(start_paused = true)]
async fn a_namespace_is_scanned_alone_and_a_mangled_token_is_refused() {
    let (_cluster, client) = filled().await;
    client.put("other", "v").namespace("n").await.unwrap();
    assert_eq!(
        client
            .scan()
            .namespace("n")
            .map(Result::unwrap)
            .count()
            .await,
        1
    );
    assert_eq!(client.scan().map(Result::unwrap).count().await, 58);
    let mangled = client
        .scan()
        .resume(&ResumeToken::from_bytes(&b"\xff\xff"[..]))
        .next()
        .await;
    assert_eq!(mangled.unwrap().unwrap_err().kind(), Kind::Config);
}
