//! Nodes that come to a cluster, come back to it with an empty directory, or come back at another address.

use ringfort_ring::NodeName;

use super::*;

/// The configuration of a node that belongs to no list, and knows where to find a cluster.
fn seeded(name: &str, seeds: &str) -> Config {
    let flags = Flags {
        name: Some(name.to_owned()),
        client_addr: Some(format!("{name}:7400")),
        peer_addr: Some(format!("{name}:7500")),
        http_addr: Some(format!("{name}:7600")),
        seeds: Some(seeds.to_owned()),
        table_bytes: Some("4MiB".to_owned()),
        connect_timeout: Some("500ms".to_owned()),
        ..Flags::default()
    };
    Config::load(&flags, &BTreeMap::new(), None).expect("a good configuration")
}

impl Run {
    async fn shown(&self) -> v1::ShowLayoutResponse {
        let mut client = AdminClient::new(self.channel());
        let shown = client.show_layout(v1::ShowLayoutRequest {}).await;
        shown.expect("answers").into_inner()
    }

    /// Waits until what this node shows of the layout is as it should be.
    async fn shows(&self, is_so: impl Fn(&v1::ShowLayoutResponse) -> bool) {
        let so = async {
            while !is_so(&self.shown().await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let so = tokio::time::timeout(HANG, so).await;
        if so.is_err() {
            panic!("{:?}", self.shown().await);
        }
    }
}

fn listed<'a>(shown: &'a v1::ShowLayoutResponse, name: &str) -> &'a v1::Member {
    let mut members = shown.live[0].members.iter();
    members.find(|m| m.name == name).expect("a member")
}

/// Waits until no copy of that node is missing anything.
async fn repaired(run: &Run, name: &str) {
    let whole = async {
        loop {
            let status = run.status().await;
            let node = status.nodes.iter().find(|node| node.name == name);
            if node.expect("a member").unsynced == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANG, whole)
        .await
        .expect("it is repaired");
}

fn refused(ended: Result<(), Fatal>, words: &str) {
    assert!(
        matches!(&ended, Err(Fatal::Start(why) | Fatal::Retired(why)) if why.contains(words)),
        "{words}: {ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_finds_a_cluster_waits_to_be_added() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let runs = three(&net, &homes, 10).await;
    let home = Home::new();
    for seed in [30, 31] {
        // The second time it comes back, and waits as before.
        let d = start_with(&net, &home, "d", seeded("d", "b:7500"), seed);
        runs[0].shows(|shown| shown.waiting.len() == 1).await;
        let waits = runs[0].shown().await.waiting.remove(0);
        assert_eq!(
            (waits.name.as_str(), waits.peer_addr.as_str()),
            ("d", "d:7500")
        );
        assert_ne!(waits.placement_id, 0);
        assert_eq!(runs[0].status().await.waiting, ["d"]);
        assert_eq!(runs[0].shown().await.epoch, 1);
        d.get("k").await.expect_err("no client is served");
        d.stop().await;
        runs[0].shows(|shown| shown.waiting.is_empty()).await;
    }
    for run in runs {
        run.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_is_refused() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let mut runs = three(&net, &homes, 10).await;
    let elsewhere = || {
        let mut config = seeded("b", "a:7500");
        config.client_addr.port = 8400;
        config.peer_addr.port = 8500;
        config.http_addr.port = 8600;
        config
    };
    let empty = Home::new();
    let ended = start_with(&net, &empty, "b", elsewhere(), 30).ended();
    refused(ended.await, "the name b is taken");
    // Also while its member is down: another machine is no proof that a directory is lost.
    runs.remove(1).stop().await;
    let ended = start_with(&net, &empty, "b", elsewhere(), 31).ended();
    refused(ended.await, "start it with the peer address that it had");
    for run in runs {
        run.stop().await;
    }
}

/// I3: what was lost with a directory is not read from the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_directory_is_taken_the_place_of() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let mut runs = three(&net, &homes, 10).await;
    for i in 0..20 {
        runs[0].put(&format!("k{i}"), "v").await.expect("a quorum");
    }
    let old = listed(&runs[0].shown().await, "b").clone();
    runs.remove(1).stop().await;
    let empty = Home::new();
    let mut b = start(&net, &empty, "b", &ABC, 30);
    assert!(!b.ready().await, "new here");
    let shown = b.shown().await;
    let new = listed(&shown, "b");
    assert_eq!(new.placement_id, old.placement_id);
    assert_ne!(new.store_id, old.store_id);
    runs[0].shows(|shown| shown.epoch == 2).await;
    for i in 0..20 {
        assert_eq!(b.get(&format!("k{i}")).await.expect("a quorum"), ["v"]);
    }
    b.put("more", "v").await.expect("its copy counts toward W");
    // It is repaired from the others, and counts again: with one of those gone there is a quorum.
    repaired(&b, "b").await;
    runs.pop().expect("two").stop().await;
    for i in 0..20 {
        assert_eq!(b.get(&format!("k{i}")).await.expect("a quorum"), ["v"]);
    }
    b.stop().await;
    let ended = start(&net, &homes[1], "b", &ABC, 31).ended().await;
    refused(ended, "has taken the place of");
    let mut b = start(&net, &empty, "b", &ABC, 32);
    assert!(b.ready().await, "a member by now");
    for run in runs.into_iter().chain([b]) {
        run.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_find_together_again_after_every_address_changed() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let runs = three(&net, &homes, 10).await;
    runs[0].put("k", "v").await.expect("a quorum");
    for run in runs {
        run.stop().await;
    }
    let moved = |name: &str| {
        let mut config = config(name, &ABC);
        config.peer_addr.port = 7501;
        config.seeds = vec!["a:7501".parse().expect("an address")];
        config
    };
    let mut runs: Vec<Run> = ABC
        .into_iter()
        .zip(&homes)
        .zip(20..)
        .map(|((name, home), seed)| start_with(&net, home, name, moved(name), seed))
        .collect();
    for run in &mut runs {
        assert!(run.ready().await);
    }
    let all_moved = |shown: &v1::ShowLayoutResponse| {
        shown.live[0]
            .members
            .iter()
            .all(|m| m.peer_addr.ends_with(":7501"))
    };
    for run in &runs {
        run.shows(all_moved).await;
        assert_eq!(run.get("k").await.expect("a quorum"), ["v"]);
    }
    for run in runs {
        run.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_excused_store_is_refused_and_its_node_may_come_back_empty() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let mut runs = three(&net, &homes, 10).await;
    runs.remove(1).stop().await;
    let change = ringfort_ring::Change::Excuse(NodeName::new("b").expect("valid"));
    let changes = ringfort_ring::encode_changes(&[change]);
    let hash = runs[0].plan(&changes).await.expect("fits").hash;
    assert_eq!(runs[0].commit(&changes, hash).await, Ok(2));
    let ended = start(&net, &homes[1], "b", &ABC, 30).ended().await;
    refused(ended, "was excused");
    // Now it may also come from elsewhere.
    let mut config = config("b", &ABC);
    config.peer_addr.port = 7501;
    let empty = Home::new();
    let mut b = start_with(&net, &empty, "b", config, 31);
    assert!(!b.ready().await);
    b.shows(|shown| shown.excused.is_empty()).await;
    assert_eq!(listed(&b.shown().await, "b").peer_addr, "b:7501");
    for run in runs.into_iter().chain([b]) {
        run.stop().await;
    }
}

fn change(node: &v1::Member) -> ringfort_ring::Member {
    crate::layout_wire::member_from_wire(node.clone()).expect("sound")
}

/// I3: what was acknowledged before, while and after a node joins is read by all.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_and_another_takes_a_place_with_nothing_missing() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let mut runs = three(&net, &homes, 10).await;
    let keys: Vec<String> = (0..60).map(|i| format!("k{i}")).collect();
    for key in &keys {
        runs[0].put(key, "v").await.expect("a quorum");
    }
    let (home_d, home_e) = (Home::new(), Home::new());
    let mut d = start_with(&net, &home_d, "d", seeded("d", "b:7500"), 30);
    runs[0].shows(|shown| shown.waiting.len() == 1).await;
    let waits = change(&runs[0].shown().await.waiting[0]);
    let changes = ringfort_ring::encode_changes(&[ringfort_ring::Change::Add(waits)]);
    let hash = runs[0].plan(&changes).await.expect("fits").hash;
    assert_eq!(runs[1].commit(&changes, hash).await, Ok(2));
    assert!(!d.ready().await, "new here");
    for i in 0..20 {
        d.put(&format!("m{i}"), "v").await.expect("all take writes");
    }
    let through =
        |shown: &v1::ShowLayoutResponse| shown.live.len() == 1 && shown.live[0].members.len() == 4;
    d.shows(through).await;
    runs[0].shows(through).await;
    for key in &keys {
        assert_eq!(d.get(key).await.expect("a quorum"), ["v"]);
    }
    // Another takes the place of b, which then stops by itself.
    let mut e = start_with(&net, &home_e, "e", seeded("e", "a:7500"), 40);
    runs[0].shows(|shown| shown.waiting.len() == 1).await;
    let shown = runs[0].shown().await;
    let place = listed(&shown, "b").placement_id;
    let replace = ringfort_ring::Change::Replace {
        old: NodeName::new("b").expect("valid"),
        new: change(&shown.waiting[0]),
    };
    let changes = ringfort_ring::encode_changes(&[replace]);
    let hash = runs[0].plan(&changes).await.expect("fits").hash;
    runs[0].commit(&changes, hash).await.expect("decided");
    assert!(!e.ready().await, "new here");
    let ended = runs.remove(1).ended().await;
    assert!(matches!(&ended, Err(Fatal::Out(_))), "{ended:?}");
    e.shows(through).await;
    assert_eq!(listed(&e.shown().await, "e").placement_id, place);
    for key in &keys {
        assert_eq!(e.get(key).await.expect("a quorum"), ["v"]);
    }
    for i in 0..20 {
        assert_eq!(e.get(&format!("m{i}")).await.expect("a quorum"), ["v"]);
    }
    let ended = start(&net, &homes[1], "b", &ABC, 41).ended().await;
    refused(ended, "was removed from the cluster");
    for run in runs.into_iter().chain([d, e]) {
        run.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_excused_node_that_runs_hears_of_it_and_stops() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let mut runs = three(&net, &homes, 10).await;
    let change = ringfort_ring::Change::Excuse(NodeName::new("b").expect("valid"));
    let changes = ringfort_ring::encode_changes(&[change]);
    let hash = runs[0].plan(&changes).await.expect("fits").hash;
    assert_eq!(runs[0].commit(&changes, hash).await, Ok(2));
    let ended = runs.remove(1).ended().await;
    assert!(
        matches!(&ended, Err(Fatal::Out(why)) if why.contains("was excused")),
        "{ended:?}"
    );
    runs[0].put("k", "v").await.expect("two are a quorum");
    for run in runs {
        run.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_auto_join_nodes_that_wait_are_added_by_themselves() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let auto = |name: &'static str| Config {
        auto_join: true,
        ..config(name, &ABC)
    };
    let pairs = ABC.into_iter().zip(&homes).zip(10..);
    let mut runs: Vec<Run> = pairs
        .map(|((name, home), seed)| start_with(&net, home, name, auto(name), seed))
        .collect();
    for run in &mut runs {
        run.ready().await;
    }
    runs[0].put("k", "v").await.expect("a quorum");
    let more = [Home::new(), Home::new()];
    for ((name, home), seed) in ["d", "e"].into_iter().zip(&more).zip(20..) {
        runs.push(start_with(&net, home, name, seeded(name, "a:7500"), seed));
    }
    for run in &mut runs[3..] {
        assert!(!run.ready().await, "new here");
    }
    for run in &runs {
        run.shows(|shown| shown.live.len() == 1 && shown.live[0].members.len() == 5)
            .await;
        assert_eq!(run.get("k").await.expect("a quorum"), ["v"]);
    }
    for run in runs {
        run.stop().await;
    }
}
