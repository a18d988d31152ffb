//! The end of a node: as a lame duck when it was asked to stop, at once when its store has failed.

use std::time::Duration;

use ringfort_storage::engine;
use tokio::time::timeout;

use super::{
    Node,
    parts::Fatal,
    serve::{Clients, Running, Tasks},
};
use crate::health::Phase;

/// How often it is looked whether work is still in flight.
const LOOK: Duration = Duration::from_millis(5);
/// Connections of clients may linger so long once all work is answered; the answers themselves need less.
const LINGER: Duration = Duration::from_millis(250);

/// Others are told for so long that this node is gone; who is not notices by itself.
const FAREWELL: Duration = Duration::from_millis(500);

/// Takes no new work, answers what is in flight, closes the store with the mark of a clean stop.
pub(super) async fn gracefully(
    node: &Node,
    running: Running,
    clients: Option<Clients>,
    tasks: Tasks,
) -> Result<(), Fatal> {
    tracing::info!("draining");
    node.health.advance(Phase::Draining);
    running.data.coordinator.drain();
    let idle = async {
        while running.data.coordinator.pending() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    if timeout(node.config.drain_timeout, idle).await.is_err() {
        let left = running.data.coordinator.pending();
        tracing::warn!(left, "work is still in flight; stopping without it");
    }
    if let Some(clients) = clients {
        let _ = clients.stop.send(());
        let _ = timeout(LINGER, clients.stopped).await;
    }
    let _ = timeout(FAREWELL, running.goodbye()).await;
    running.data.stop();
    let _ = running.stop_peers.send(());
    drop(tasks);
    match running.driven.close().await {
        Ok(()) => {
            tracing::info!("stopped");
            Ok(())
        }
        Err(why) => Err(Fatal::Storage(format!(
            "the store did not close cleanly: {why}"
        ))),
    }
}

/// Says why, and leaves everything as it is: nobody knows what a failed store would do on its way out.
pub(super) fn at_once(node: &Node, running: Running, fatal: Fatal) -> Fatal {
    node.health.break_down(&fatal.to_string());
    tracing::error!("{fatal}");
    let spared = |why: &str| match running.store.engine_failure() {
        Some(error) => error.spares_the_engine(),
        // A thread of the engine's own has panicked.
        None => engine::tells_of_the_machine(why),
    };
    if matches!(&fatal, Fatal::Engine(why) if !spared(why)) {
        let marked = running
            .store
            .identity()
            .update(|identity| identity.set_aside = true);
        if let Err(error) = marked {
            return Fatal::Storage(format!("{fatal}; and that cannot be noted: {error}"));
        }
    }
    // Dropping the engine would flush it.
    std::mem::forget(running.store.clone());
    std::mem::forget(running.driven);
    fatal
}
