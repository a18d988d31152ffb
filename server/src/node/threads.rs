//! Production's driver of a store: threads.

#![expect(clippy::disallowed_methods, reason = "the edge with threads")]

use std::{io, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use ringfort_storage::{
    Store,
    driver::{self, Threads, spawn_threads},
    store::{OpenError, OpenReport, Opened, StoreConfig, StoreParts},
};
use tokio::sync::watch;

use super::parts::{Driven, StorageDriver};
use crate::pool::{EnginePool, Job, PoolFull};

/// Drives stores by threads.
#[derive(Debug, Clone, Copy)]
pub struct ThreadDriver {
    /// Threads of the engine pool.
    pub engine_threads: usize,
}

impl StorageDriver for ThreadDriver {
    fn open(
        &self,
        parts: StoreParts,
        config: StoreConfig,
    ) -> BoxFuture<'static, Result<Opened, OpenError>> {
        async move {
            let opened = tokio::task::spawn_blocking(move || Store::open(parts, &config)).await;
            match opened {
                Ok(opened) => opened,
                // Our own bug, and the same one that an open on this thread would have shown.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        .boxed()
    }

    fn start(&self, opened: Opened) -> io::Result<(Box<dyn Driven>, OpenReport)> {
        let (threads, report) = spawn_threads(opened, self.engine_threads)?;
        Ok((Box::new(ThreadDriven(threads)), report))
    }
}

struct ThreadDriven(Threads);

impl Driven for ThreadDriven {
    fn pool(&self) -> Arc<dyn EnginePool> {
        Arc::new(ThreadPool(self.0.pool()))
    }

    fn failure(&self) -> watch::Receiver<Option<String>> {
        self.0.fatal()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), String>> {
        async move {
            // Joins threads, which is no work for the thread that runs everything else.
            let closed = tokio::task::spawn_blocking(move || self.0.close()).await;
            closed.unwrap_or_else(|error| Err(format!("closing the store panicked: {error}")))
        }
        .boxed()
    }
}

/// The store's engine pool, as the data path knows it.
struct ThreadPool(driver::EnginePool);

impl EnginePool for ThreadPool {
    fn submit(&self, job: Job) -> Result<(), PoolFull> {
        self.0.submit(move |_| job()).map_err(|_| PoolFull)
    }
}
