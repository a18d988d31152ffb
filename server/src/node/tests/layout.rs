//! Amending the layout of a running cluster: planned at one node, decided by a majority, followed by all.

use ringfort_ring::{Change, NodeName, encode_changes};

use super::*;

fn moved(name: &str, peer_addr: &str) -> Vec<u8> {
    encode_changes(&[Change::Addresses {
        name: NodeName::new(name).expect("valid"),
        client_addr: format!("{name}:7400"),
        peer_addr: peer_addr.to_owned(),
        http_addr: format!("{name}:7600"),
    }])
}

impl Run {
    pub async fn plan(&self, changes: &[u8]) -> Result<v1::PlanLayoutResponse, Status> {
        let request = v1::PlanLayoutRequest {
            changes: changes.to_vec().into(),
        };
        let plan = AdminClient::new(self.channel()).plan_layout(request).await;
        plan.map(tonic::Response::into_inner)
    }

    pub async fn commit(&self, changes: &[u8], hash: u64) -> Result<u64, Reason> {
        let request = v1::CommitLayoutRequest {
            changes: changes.to_vec().into(),
            hash,
        };
        match AdminClient::new(self.channel())
            .commit_layout(request)
            .await
        {
            Ok(committed) => Ok(committed.into_inner().epoch),
            Err(status) => Err(Failure::from_status(&status).expect("typed").reason),
        }
    }

    pub async fn layout(&self) -> v1::ShowLayoutResponse {
        let mut client = AdminClient::new(self.channel());
        let shown = client.show_layout(v1::ShowLayoutRequest {}).await;
        shown.expect("answers").into_inner()
    }

    /// Waits until the node knows the decree of this epoch.
    async fn follows(&self, epoch: u64) {
        let known = async {
            while self.layout().await.epoch < epoch {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(HANG, known)
            .await
            .expect("the decree spreads");
    }
}

async fn all_up(run: &Run) {
    let up = async {
        while run
            .status()
            .await
            .nodes
            .iter()
            .any(|node| node.state != "up")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANG, up)
        .await
        .expect("all are reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_moves_to_another_address_by_decree() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let mut runs = three(&net, &homes, 10).await;
    runs[0].put("k", "v").await.expect("a quorum");
    let change = moved("c", "c:7501");
    let plan = runs[1].plan(&change).await.expect("fits");
    assert!(!plan.places && plan.copies == 0, "{plan:?}");
    assert_eq!(runs[0].commit(&change, plan.hash).await, Ok(2));
    assert_eq!(
        runs[0].commit(&change, plan.hash).await,
        Ok(2),
        "decided already"
    );
    for run in &runs {
        run.follows(2).await;
    }
    runs.pop().expect("three").stop().await;
    let mut flags = config("c", &ABC);
    flags.peer_addr.port = 7501;
    let mut c = start_with(&net, &homes[2], "c", flags, 40);
    assert!(c.ready().await);
    all_up(&runs[0]).await;
    all_up(&c).await;
    assert_eq!(c.get("k").await.expect("a quorum"), ["v"]);
    c.put("k2", "v").await.expect("a quorum");
    // A node that was away hears of it when it comes back, and a restart forgets nothing.
    runs.remove(1).stop().await;
    let mut b = start(&net, &homes[1], "b", &ABC, 41);
    assert!(b.ready().await);
    assert_eq!(b.layout().await.epoch, 2);
    all_up(&b).await;
    for run in [b, c].into_iter().chain(runs) {
        run.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_committed_changes_nothing() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let mut runs = three(&net, &homes, 10).await;
    let change = moved("c", "c:7501");
    let hash = runs[0].plan(&change).await.expect("fits").hash;
    assert_eq!(
        runs[0].commit(&change, hash ^ 1).await,
        Err(Reason::StalePlan)
    );
    assert_eq!(runs[0].commit(&change, 0).await, Err(Reason::StalePlan));
    let stranger = moved("x", "x:7500");
    let refused = runs[0].plan(&stranger).await.expect_err("unknown");
    assert!(
        refused.message().contains("no member is called x"),
        "{refused:?}"
    );
    let few = encode_changes(&[Change::Remove(NodeName::new("c").expect("valid"))]);
    let refused = runs[0].plan(&few).await.expect_err("two are too few");
    assert!(
        refused.message().contains("2 members would be left"),
        "{refused:?}"
    );
    for run in &runs {
        assert_eq!(run.layout().await.epoch, 1);
    }
    // Alone, a node decides nothing.
    runs.remove(2).stop().await;
    runs.remove(1).stop().await;
    assert_eq!(
        runs[0].commit(&change, hash).await,
        Err(Reason::QuorumUnavailable)
    );
    assert_eq!(runs[0].layout().await.epoch, 1);
    runs.remove(0).stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_changes_at_once_one_wins_and_the_other_is_told() {
    let (net, homes) = (MemNet::default(), [Home::new(), Home::new(), Home::new()]);
    let runs = three(&net, &homes, 10).await;
    let (one, other) = (moved("c", "c:7501"), moved("c", "c:7502"));
    let first = runs[0].plan(&one).await.expect("fits").hash;
    let second = runs[1].plan(&other).await.expect("fits").hash;
    let (first, second) = tokio::join!(runs[0].commit(&one, first), runs[1].commit(&other, second));
    let told = |answer: &Result<u64, Reason>| {
        matches!(answer, Err(Reason::StalePlan | Reason::ChangeLost))
    };
    assert!(
        first == Ok(2) && told(&second) || second == Ok(2) && told(&first),
        "{first:?} {second:?}"
    );
    let mut layouts = Vec::new();
    for run in &runs {
        run.follows(2).await;
        layouts.push(run.layout().await.live);
    }
    assert!(layouts.iter().all(|live| *live == layouts[0]));
    for run in runs {
        run.stop().await;
    }
}
