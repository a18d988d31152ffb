//! Every verb against siblings, contexts and misses.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use ringfort_client::{Change, Context, Kind, Mutation, Reason};

use crate::cluster;

#[tokio::test(start_paused = true)]
async fn a_value_comes_back() {
    let (_cluster, client) = cluster(3);
    let written = client.put("k", "v").await.unwrap();
    assert_eq!(written.siblings, 1);
    let read = client.get("k").await.unwrap();
    assert_eq!(read.siblings()[0].value, "v");
    assert_eq!(read.evidence().owners_asked, 3);
    assert_eq!(read.one().unwrap(), Some(Bytes::from("v")));
}

#[tokio::test(start_paused = true)]
async fn not_found_is_an_answer() {
    let (_cluster, client) = cluster(1);
    let read = client.get("nothing").await.unwrap();
    assert!(!read.is_found());
    assert!(read.context().is_none());
    assert_eq!(read.one().unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn blind_writes_become_siblings_and_a_context_replaces_them() {
    let (_cluster, client) = cluster(3);
    client.put("k", "a").await.unwrap();
    let second = client.put("k", "b").await.unwrap();
    assert_eq!(second.siblings, 2);
    assert!(
        second.context.is_none(),
        "a client must not cover what it never read"
    );
    let read = client.get("k").await.unwrap();
    let several = read.clone().one().unwrap_err();
    assert_eq!(several.read().siblings().len(), 2);
    assert_eq!(
        ringfort_client::Error::from(several).kind(),
        Kind::SeveralSiblings
    );

    let context = Context::from_bytes(read.context().unwrap().as_bytes().to_vec());
    let merged = client.put("k", "ab").context(context).await.unwrap();
    assert_eq!(merged.siblings, 1);
    let next = client
        .put("k", "abc")
        .context(merged.context.unwrap())
        .await
        .unwrap();
    assert_eq!(next.siblings, 1);
    assert_eq!(
        client.get("k").await.unwrap().one().unwrap(),
        Some(Bytes::from("abc"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_plain_delete_keeps_what_it_never_saw() {
    let (cluster, client) = cluster(3);
    client.put("k", "old").await.unwrap();
    let read = client.get("k").await.unwrap();
    client.put("k", "new").await.unwrap();
    let deleted = client
        .delete("k")
        .context(read.context().unwrap().clone())
        .await
        .unwrap();
    assert_eq!((deleted.siblings, deleted.found), (1, None));
    assert_eq!(
        client.get("k").await.unwrap().one().unwrap(),
        Some(Bytes::from("new"))
    );

    let deleted = client.delete("k").await.unwrap();
    assert_eq!((deleted.siblings, deleted.found), (0, Some(true)));
    assert_eq!(cluster.keys(), 0);
    let writes = cluster.seen().iter().filter(|seen| seen.write).count();
    let again = client.delete("k").await.unwrap();
    assert_eq!(again.found, Some(false));
    assert_eq!(
        cluster.seen().iter().filter(|seen| seen.write).count(),
        writes,
        "nothing to delete, nothing written"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_condition_says_what_is_there() {
    let (_cluster, client) = cluster(3);
    client.put("k", "first").if_absent().await.unwrap();
    let error = client.put("k", "second").if_absent().await.unwrap_err();
    assert_eq!(error.kind(), Kind::ConditionFailed);
    assert!(!error.is_ambiguous() && !error.is_retryable());
    assert_eq!(error.current().unwrap().siblings()[0].value, "first");
}

#[tokio::test(start_paused = true)]
async fn a_value_with_a_lifetime_expires() {
    let (_cluster, client) = cluster(1);
    client
        .put("k", "v")
        .ttl(Duration::from_secs(10))
        .await
        .unwrap();
    assert!(
        client.get("k").await.unwrap().siblings()[0]
            .expires_at
            .is_some()
    );
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(!client.get("k").await.unwrap().is_found());
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_comes_back_while_it_is_kept() {
    let (_cluster, client) = cluster(3);
    assert!(client.undelete("k").await.unwrap().is_none(), "nothing yet");
    client.put("k", "v").await.unwrap();
    client.delete("k").await.unwrap();
    assert!(client.get("k").await.unwrap().deleted().is_empty());
    let read = client.get("k").deleted(true).await.unwrap();
    assert_eq!(
        (read.is_found(), read.deleted()),
        (false, &[Bytes::from("v")][..])
    );
    let back = client.undelete("k").await.unwrap().expect("it is kept");
    assert_eq!((back.siblings, back.context.is_some()), (1, true));
    assert_eq!(
        client.get("k").await.unwrap().one().unwrap(),
        Some(Bytes::from("v"))
    );

    let error = client.undelete("k").await.unwrap_err();
    assert_eq!(error.kind(), Kind::ConditionFailed, "a value is there");
    assert!(!error.is_ambiguous());

    client.delete("k").purge().await.unwrap();
    assert!(client.undelete("k").await.unwrap().is_none(), "purged");

    client.put("k", "v").await.unwrap();
    client.delete("k").await.unwrap();
    tokio::time::sleep(Duration::from_secs(24 * 60 * 60)).await;
    assert!(client.undelete("k").await.unwrap().is_none(), "too late");
}

#[tokio::test(start_paused = true)]
async fn of_several_deleted_values_the_caller_chooses() {
    let (_cluster, client) = cluster(3);
    client.put("k", "a").await.unwrap();
    client.put("k", "b").await.unwrap();
    client.delete("k").await.unwrap();
    let error = client.undelete("k").await.unwrap_err();
    assert_eq!(error.kind(), Kind::SeveralSiblings);
    let read = client.get("k").deleted(true).await.unwrap();
    assert_eq!(read.deleted().len(), 2);
    let put = client.put("k", read.deleted()[1].clone());
    let put = put.context(read.context().unwrap().clone()).await.unwrap();
    assert_eq!(put.siblings, 1);
    // With a lifetime of its own, since what it had is not kept.
    client.delete("k").await.unwrap();
    let back = client.undelete("k").ttl(Duration::from_secs(10)).await;
    assert!(back.unwrap().is_some());
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(!client.get("k").await.unwrap().is_found());
}

#[tokio::test(start_paused = true)]
async fn batches_keep_order_and_misses() {
    let (cluster, client) = cluster(3);
    let writes = (0..500).map(|i| Mutation::put(format!("k{i}"), format!("v{i}")));
    let written = client.batch_write(writes).await;
    assert_eq!(written.len(), 500);
    assert!(written.iter().all(Result::is_ok));

    let keys: Vec<String> = (0..1000).map(|i| format!("k{i}")).collect();
    let reads = client.batch_get(&keys).await;
    assert_eq!(reads.len(), 1000);
    for (i, read) in reads.into_iter().enumerate() {
        let expected = (i < 500).then(|| Bytes::from(format!("v{i}")));
        assert_eq!(read.unwrap().one().unwrap(), expected, "at {i}");
    }
    let batches: std::collections::BTreeSet<u64> =
        cluster.seen().iter().map(|seen| seen.batch).collect();
    assert!(
        batches.len() < 100,
        "1,500 operations came in {} batches",
        batches.len()
    );

    let mixed = [
        Mutation::delete("k1"),
        Mutation::put("k2", "w").if_absent(),
        Mutation::put("", "empty key"),
    ];
    let results = client.batch_write(mixed).await;
    assert_eq!(results[0].as_ref().unwrap().siblings, 0);
    assert_eq!(
        results[1].as_ref().unwrap_err().kind(),
        Kind::ConditionFailed
    );
    assert_eq!(
        results[2].as_ref().unwrap_err().reason(),
        Some(Reason::EmptyKey)
    );
}

#[tokio::test(start_paused = true)]
async fn namespaces_are_apart() {
    let (cluster, client) = cluster(3);
    client.put("k", "v").await.unwrap();
    assert!(
        client
            .get("k")
            .namespace("default")
            .await
            .unwrap()
            .is_found()
    );
    assert!(!client.get("k").namespace("other").await.unwrap().is_found());
    let other = cluster.client_builder().namespace("other").build().unwrap();
    other.put("k", "w").await.unwrap();
    assert_eq!(
        client
            .get("k")
            .namespace("other")
            .await
            .unwrap()
            .one()
            .unwrap(),
        Some(Bytes::from("w"))
    );
}

#[tokio::test(start_paused = true)]
async fn read_modify_write_merges_siblings() {
    let (_cluster, client) = cluster(3);
    for value in ["a", "b"] {
        client.put("k", value).await.unwrap();
    }
    let written = client
        .read_modify_write("k", |current| {
            let all: Vec<&[u8]> = current.iter().map(|sibling| &sibling.value[..]).collect();
            Change::Put(Bytes::from(all.concat()))
        })
        .await
        .unwrap();
    assert_eq!(written.siblings, 1);
    assert_eq!(
        client.get("k").await.unwrap().one().unwrap(),
        Some(Bytes::from("ab"))
    );
}

#[tokio::test(start_paused = true)]
async fn read_modify_write_goes_again_when_others_write_meanwhile() {
    let (cluster, client) = cluster(3);
    client.put("k", "base").await.unwrap();
    let rounds = Arc::new(Mutex::new(Vec::new()));
    let (seen, other) = (Arc::clone(&rounds), cluster.clone());
    let written = client
        .read_modify_write("k", move |current| {
            let mut seen = seen.lock().unwrap();
            seen.push((current.len(), current.written.cloned()));
            if seen.len() == 1 {
                other.add_sibling("k", "theirs");
                return Change::Put(Bytes::from("mine"));
            }
            Change::Put(Bytes::from("mine and theirs"))
        })
        .await
        .unwrap();
    assert_eq!(written.siblings, 1);
    assert_eq!(
        *rounds.lock().unwrap(),
        [(1, None), (2, Some(Bytes::from("mine")))]
    );
    assert_eq!(
        client.get("k").await.unwrap().one().unwrap(),
        Some(Bytes::from("mine and theirs"))
    );
}

#[tokio::test(start_paused = true)]
async fn read_modify_write_gives_up_after_its_rounds_and_keeps_all() {
    let (cluster, client) = cluster(1);
    let other = cluster.clone();
    let change = move |_: &ringfort_client::Current<'_>| {
        other.add_sibling("k", "theirs");
        Change::Put(Bytes::from("mine"))
    };
    let written = client
        .read_modify_write("k", change)
        .rounds(3)
        .await
        .unwrap();
    assert_eq!(written.siblings, 2);
    assert_eq!(cluster.seen().iter().filter(|seen| seen.write).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn read_modify_write_can_delete_and_can_keep() {
    let (cluster, client) = cluster(1);
    client.put("k", "v").await.unwrap();
    client
        .read_modify_write("k", |_| Change::Keep)
        .await
        .unwrap();
    assert_eq!(cluster.keys(), 1);
    client
        .read_modify_write("k", |_| Change::Delete)
        .await
        .unwrap();
    assert_eq!(cluster.keys(), 0);
}

#[tokio::test(start_paused = true)]
async fn json_goes_in_and_out() {
    let (_cluster, client) = cluster(1);
    client.put_json("k", &vec![1, 2, 3]).unwrap().await.unwrap();
    assert_eq!(
        client.get("k").await.unwrap().json::<Vec<u32>>().unwrap(),
        Some(vec![1, 2, 3])
    );
    let wrong = client.get("k").await.unwrap().json::<String>().unwrap_err();
    assert_eq!(wrong.kind(), Kind::Config);
}

#[tokio::test(start_paused = true)]
async fn an_operator_learns_where_and_how() {
    let (cluster, client) = cluster(4);
    let location = client.where_is("k").await.unwrap();
    let owners: Vec<String> = cluster
        .owners("k")
        .iter()
        .map(|node| format!("n{node}"))
        .collect();
    assert_eq!((location.owners, location.fallbacks.len()), (owners, 1));
    cluster.stop(2);
    let status = client.status().await.unwrap();
    assert_eq!(status.nodes[2].state, "down");
    let layout = client.layout().await.unwrap();
    assert_eq!(
        (layout.epoch, layout.replicas, layout.members.len()),
        (1, 3, 4)
    );
}
