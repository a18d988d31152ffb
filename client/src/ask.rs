//! Unary questions that change nothing, asked of whichever node answers.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    Error, Kind,
    inner::Inner,
    policy::{self, ATTEMPTS_MAX, Decision},
    session::{Session, refusal},
};

/// What goes with one attempt of a question.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    /// The time that it has.
    left: Duration,
    /// 0 for the first.
    pub(crate) number: u32,
}

impl Attempt {
    /// The request with its deadline.
    pub(crate) fn with<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.left);
        request
    }
}

impl Inner {
    /// Asks until a node answers, by the policy of all calls. A node that cannot be reached is no attempt while there
    /// is another; one that stays silent leaves half of the time to the next.
    pub(crate) async fn ask<T, F>(
        &self,
        deadline: Instant,
        question: impl Fn(Channel, Attempt) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut tried = BTreeSet::new();
        let mut number = 0;
        loop {
            let (node, others) = self.untried(&mut tried);
            let left = deadline.saturating_duration_since(Instant::now());
            let spare = others && number + 1 < ATTEMPTS_MAX;
            let left = if spare { left / 2 } else { left };
            let attempt = Attempt { left, number };
            let error = match timeout(left, question(node.channel(), attempt)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => refusal(&status, node.address()),
                Err(_) if spare => Error::silent(node.address()),
                Err(_) => Error::unanswered(node.address(), false),
            };
            if error.failure().is_none() {
                // A node of which nothing but such questions is asked would seem to be as good as any the next time, too.
                node.begin();
                if error.kind() == Kind::Unavailable && others {
                    continue;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match policy::decide(&error, number, left, self.random().fraction()) {
                Decision::Stop => return Err(error),
                Decision::Again { after, .. } => sleep(after).await,
            }
            number += 1;
        }
    }

    /// The best node that was not tried, and whether there are others still. Once all were tried, they begin anew.
    fn untried(&self, tried: &mut BTreeSet<String>) -> (Arc<Session>, bool) {
        let nodes = self.nodes();
        if nodes.iter().all(|node| tried.contains(node.address())) {
            tried.clear();
        }
        let mut left = nodes
            .into_iter()
            .filter(|node| !tried.contains(node.address()));
        let node = left.next().expect("a client has at least one endpoint");
        let others = left.next().is_some();
        tried.insert(node.address().to_owned());
        (node, others)
    }
}
