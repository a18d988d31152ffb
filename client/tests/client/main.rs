//! The client against a cluster in memory, under paused time.

mod faults;
mod limits;
mod routing;
mod scan;
mod verbs;

use std::time::Duration;

use ringfort_client::{Client, fake::FakeCluster};

/// Lets background work run until nothing is left to do but wait.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(60)).await;
}

/// A cluster and a client whose chance is fixed.
fn cluster(nodes: usize) -> (FakeCluster, Client) {
    let cluster = FakeCluster::new(nodes);
    let client = cluster
        .client_builder()
        .seed(7)
        .build()
        .expect("valid settings");
    (cluster, client)
}
