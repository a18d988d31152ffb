//! Has a change decided: plans it, asks the voters, tells everyone.
//!
//! Keeps I9 through `ring`'s proposer: a ballot is durable before it is used. An error says whether the change may still
//! come to be.

use std::{collections::BTreeSet, collections::VecDeque, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt, future::BoxFuture, future::join_all, stream::FuturesUnordered,
};
use ringfort_proto::{Failure, Reason};
use ringfort_ring::{
    Change, Decree, Epoch, PlanError, PlanHash, StoreId, check_hash,
    consensus::{Act, Promises, Proposer, Request, Response},
    plan,
};
use ringfort_storage::mutants::{Mutant, is_planted};

use super::{ASK_TIMEOUT, Council, CouncilError, State, wire};

/// Attempts of one commit, at most.
const ATTEMPTS_MAX: u32 = 5;
/// The pause after the first attempt; each further one is longer by as much.
const PAUSE: Duration = Duration::from_millis(100);
/// Proposers that meet do not wait equally long: up to so much longer, by their store.
const PAUSE_SPREAD_MS: u64 = 97;

/// How an attempt ended.
enum Attempt {
    /// Decided, on this value.
    Decided(Decree),
    /// Decided, on something that this node does not know yet.
    Passed,
    /// Too few answered, or another proposer was faster.
    Again,
}

type Answer = (StoreId, Option<Response<Decree>>);

impl Council {
    /// Has the plan named `named`, of `changes` on the newest decree, decided. Gives its epoch. The same plan again, after
    /// it was decided, is the same success.
    ///
    /// # Errors
    /// [`Failure`]; only [`Reason::OutcomeUnknown`] leaves open whether anything changes.
    pub async fn commit(&self, changes: &[Change], named: PlanHash) -> Result<Epoch, Failure> {
        let _one = self.proposing.try_lock().map_err(|_| {
            Failure::new(
                Reason::Overloaded,
                "this node has another change decided just now",
            )
        })?;
        let base = self.newest();
        if base.plan() == named && named != PlanHash(0) {
            return Ok(base.epoch());
        }
        check_hash(&base, changes, named).map_err(refused)?;
        let planned = plan(&base, changes, None).map_err(refused)?;
        self.have_decided(&base, planned.target).await
    }

    /// Has `target`, which is to follow the newest decree, decided. That an equal one was decided is the same success.
    ///
    /// # Errors
    /// [`Failure`], as of [`Self::commit`].
    pub async fn propose(&self, target: Decree) -> Result<Epoch, Failure> {
        let _one = self.proposing.lock().await;
        let base = self.newest();
        if *base == target {
            return Ok(base.epoch());
        }
        target.follows(&base).map_err(CouncilError::from)?;
        self.have_decided(&base, target).await
    }

    async fn have_decided(&self, base: &Arc<Decree>, target: Decree) -> Result<Epoch, Failure> {
        let instance = target.epoch();
        let votes = self.state().promises.votes.clone();
        let proposed = votes.of_instance(instance).proposed;
        let proposer = Proposer::new(self.me, instance, base.voters(), proposed, target);
        self.decide(base, proposer).await
    }

    async fn decide(
        &self,
        base: &Arc<Decree>,
        mut proposer: Proposer<Decree>,
    ) -> Result<Epoch, Failure> {
        let mut asked_for_votes = false;
        for attempt in 0..ATTEMPTS_MAX {
            match self
                .attempt(base, &mut proposer, &mut asked_for_votes)
                .await?
            {
                Attempt::Decided(decree) => {
                    let won = decree == *proposer.value();
                    self.adopt(Arc::new(decree.clone()))?;
                    self.tell(base, &decree).await;
                    return if won {
                        Ok(decree.epoch())
                    } else {
                        Err(lost(decree.epoch()))
                    };
                }
                Attempt::Passed => {
                    self.tell(base, base).await;
                    let newest = self.newest();
                    let same_plan = newest.plan() == proposer.value().plan();
                    if *newest == *proposer.value() || same_plan && newest.plan() != PlanHash(0) {
                        return Ok(newest.epoch());
                    }
                    return Err(lost(newest.epoch()));
                }
                Attempt::Again => {
                    let spread = Duration::from_millis(self.me.0 % PAUSE_SPREAD_MS);
                    tokio::time::sleep((PAUSE + spread) * (attempt + 1)).await;
                }
            }
        }
        Err(no_majority(base, asked_for_votes))
    }

    async fn attempt(
        &self,
        base: &Arc<Decree>,
        proposer: &mut Proposer<Decree>,
        asked_for_votes: &mut bool,
    ) -> Result<Attempt, Failure> {
        let mut acts = VecDeque::from(proposer.start());
        let mut asked: FuturesUnordered<BoxFuture<'_, Answer>> = FuturesUnordered::new();
        // Each is told at most once an attempt.
        let mut told = BTreeSet::new();
        loop {
            while let Some(act) = acts.pop_front() {
                match act {
                    Act::KeepRound(round) => self.keep_round(proposer.instance(), round)?,
                    Act::Ask(mut request) => {
                        if is_planted(Mutant::TwoDecided)
                            && let Request::Accept { value, .. } = &mut request
                        {
                            *value = proposer.value().clone();
                        }
                        *asked_for_votes |= matches!(request, Request::Accept { .. });
                        for store in base.voters() {
                            asked.push(self.ask(base, store, request.clone(), false).boxed());
                        }
                    }
                    Act::Decided(_) if is_planted(Mutant::TwoDecided) => {
                        return Ok(Attempt::Decided(proposer.value().clone()));
                    }
                    Act::Decided(decree) => return Ok(Attempt::Decided(decree)),
                    Act::Passed(_) => return Ok(Attempt::Passed),
                    Act::Outbid(_) => return Ok(Attempt::Again),
                    Act::Tell(store) => {
                        if let Some(request) = proposer.asking()
                            && told.insert(store)
                        {
                            asked.push(self.ask(base, store, request, true).boxed());
                        }
                    }
                }
            }
            match asked.next().await {
                None => return Ok(Attempt::Again),
                Some((store, Some(response))) => acts.extend(proposer.hear(store, response)),
                Some((_, None)) => {}
            }
        }
    }

    fn keep_round(&self, instance: Epoch, round: u64) -> Result<(), CouncilError> {
        let mut state = self.state();
        let State { promises, .. } = &*state;
        let mut votes = promises.votes.clone().of_instance(instance);
        votes.proposed = votes.proposed.max(round);
        let promises = Promises {
            votes,
            ..promises.clone()
        };
        self.keep(&mut state, promises)
    }

    /// Asks one voter, which may be this node; with `tell` it is told the newest decree first.
    async fn ask(
        &self,
        base: &Decree,
        store: StoreId,
        request: Request<Decree>,
        tell: bool,
    ) -> Answer {
        if store == self.me {
            let answer = self.vote(request);
            return (
                store,
                answer
                    .inspect_err(|error| tracing::warn!(%error, "no vote"))
                    .ok(),
            );
        }
        let Some(member) = base.member_of(store) else {
            return (store, None);
        };
        let addr = &self.addr_of(member);
        let answer = async {
            if tell {
                self.exchange(addr).await?;
            }
            let wire = wire::request_to_wire(self.cluster.0, &request);
            let response = self.client(addr).vote(wire).await;
            let response = response
                .map_err(|status| super::peer_error(addr, status.message()))?
                .into_inner();
            if response.store_id != store.0 {
                return Err(super::peer_error(addr, "another store answers there"));
            }
            wire::response_from_wire(response)
        };
        match tokio::time::timeout(2 * ASK_TIMEOUT, answer).await {
            Ok(Ok(response)) => (store, Some(response)),
            Ok(Err(error)) => {
                tracing::info!(%error, "no vote");
                (store, None)
            }
            Err(_) => (store, None),
        }
    }

    /// Tells all members what this node knows: a step of a change waits for such news, and gossip takes a while.
    pub async fn tell_all(&self) {
        let newest = self.newest();
        self.tell(&newest, &newest).await;
    }

    /// Tells all members what was decided, where they were and where they are. Who misses it asks by itself.
    async fn tell(&self, base: &Decree, decided: &Decree) {
        let members = [base, decided]
            .into_iter()
            .flat_map(|decree| decree.present().into_values());
        let addrs: BTreeSet<String> = members
            .filter(|member| member.store_id != self.me)
            .flat_map(|member| [member.peer_addr.clone(), self.addr_of(member)])
            .collect();
        let told = addrs.iter().map(|addr| self.exchange(addr).boxed());
        for error in join_all(told).await.into_iter().filter_map(Result::err) {
            tracing::info!(%error, "a member was not told");
        }
    }
}

fn refused(error: PlanError) -> Failure {
    let reason = match error {
        PlanError::Stale { .. } => Reason::StalePlan,
        PlanError::Change(_) | PlanError::Placement(_) => Reason::BadRequest,
    };
    Failure::new(reason, error.to_string())
}

fn lost(newest: Epoch) -> Failure {
    let words = format!("another change was decided, the layout is at epoch {newest}: plan again");
    Failure::new(Reason::ChangeLost, words).with("epoch", newest)
}

fn no_majority(base: &Decree, asked_for_votes: bool) -> Failure {
    let voters = base.voters().len();
    let need = voters / 2 + 1;
    let failure = if asked_for_votes {
        let words = "too few members answered: the change may still be decided, see `layout show`";
        Failure::new(Reason::OutcomeUnknown, words)
    } else {
        let words = format!("fewer than {need} of {voters} members answer: nothing was changed");
        Failure::new(Reason::QuorumUnavailable, words)
    };
    failure.with("need", need)
}
