//! Questions and answers of consensus as they travel, and back. What comes in is checked.

use ringfort_proto::peer::{self, Verdict};
use ringfort_ring::{
    Decree, Epoch, StoreId, Trackers,
    consensus::{Ballot, Request, Response},
};

use super::CouncilError;

fn ballot_to_wire(ballot: Ballot) -> peer::Ballot {
    peer::Ballot {
        round: ballot.round,
        by: ballot.by.0,
    }
}

fn ballot_from_wire(ballot: Option<peer::Ballot>) -> Result<Ballot, CouncilError> {
    let ballot = ballot.ok_or_else(|| CouncilError::Message("no ballot".to_owned()))?;
    Ok(Ballot {
        round: ballot.round,
        by: StoreId(ballot.by),
    })
}

/// A question as it travels.
pub fn request_to_wire(cluster: u64, request: &Request<Decree>) -> peer::VoteRequest {
    peer::VoteRequest {
        cluster_id: cluster,
        instance: request.instance().0,
        ballot: Some(ballot_to_wire(request.ballot())),
        decree: match request {
            Request::Prepare { .. } => Default::default(),
            Request::Accept { value, .. } => value.encode().into(),
        },
    }
}

/// A question off the wire, and its ballot.
///
/// # Errors
/// It makes no sense.
pub fn request_from_wire(
    request: peer::VoteRequest,
) -> Result<(Ballot, Request<Decree>), CouncilError> {
    let (instance, ballot) = (Epoch(request.instance), ballot_from_wire(request.ballot)?);
    if request.decree.is_empty() {
        return Ok((ballot, Request::Prepare { instance, ballot }));
    }
    let value = Decree::decode(&request.decree)?;
    if value.epoch() != instance {
        return Err(CouncilError::Message(
            "a decree of another epoch".to_owned(),
        ));
    }
    let accept = Request::Accept {
        instance,
        ballot,
        value,
    };
    Ok((ballot, accept))
}

/// An answer as it travels.
pub fn response_to_wire(
    me: StoreId,
    asked: Ballot,
    response: Response<Decree>,
) -> peer::VoteResponse {
    let mut wire = peer::VoteResponse {
        store_id: me.0,
        ballot: Some(ballot_to_wire(asked)),
        ..Default::default()
    };
    let verdict = match response {
        Response::Promised { accepted, .. } => {
            if let Some((voted, decree)) = accepted {
                wire.voted = Some(ballot_to_wire(voted));
                wire.decree = decree.encode().into();
            }
            Verdict::Promised
        }
        Response::Accepted { .. } => Verdict::Accepted,
        Response::Outbid { promised, .. } => {
            wire.voted = Some(ballot_to_wire(promised));
            Verdict::Outbid
        }
        Response::Decided { newest } => {
            wire.newest = newest.0;
            Verdict::Decided
        }
        Response::Behind { newest } => {
            wire.newest = newest.0;
            Verdict::Behind
        }
        Response::NoVote => Verdict::NoVote,
    };
    wire.verdict = verdict as i32;
    wire
}

/// An answer off the wire.
///
/// # Errors
/// It makes no sense.
pub fn response_from_wire(wire: peer::VoteResponse) -> Result<Response<Decree>, CouncilError> {
    let ballot = ballot_from_wire(wire.ballot)?;
    let newest = Epoch(wire.newest);
    Ok(match Verdict::try_from(wire.verdict).unwrap_or_default() {
        Verdict::Promised if wire.decree.is_empty() => Response::Promised {
            ballot,
            accepted: None,
        },
        Verdict::Promised => {
            let voted = ballot_from_wire(wire.voted)?;
            let accepted = Some((voted, Decree::decode(&wire.decree)?));
            Response::Promised { ballot, accepted }
        }
        Verdict::Accepted => Response::Accepted { ballot },
        Verdict::Outbid => Response::Outbid {
            ballot,
            promised: ballot_from_wire(wire.voted)?,
        },
        Verdict::Decided => Response::Decided { newest },
        Verdict::Behind => Response::Behind { newest },
        Verdict::NoVote => Response::NoVote,
        Verdict::Unspecified => {
            return Err(CouncilError::Message(
                "an answer without a verdict".to_owned(),
            ));
        }
    })
}

/// A store's trackers as they travel.
pub fn trackers_to_wire(store: StoreId, trackers: Trackers) -> peer::Trackers {
    peer::Trackers {
        store_id: store.0,
        ack: trackers.ack.0,
        merged: trackers.merged.0,
        flipped: trackers.flipped.0,
    }
}

/// A store's trackers off the wire; whether they make sense the history judges.
pub fn trackers_from_wire(wire: peer::Trackers) -> (StoreId, Trackers) {
    let trackers = Trackers {
        ack: Epoch(wire.ack),
        merged: Epoch(wire.merged),
        flipped: Epoch(wire.flipped),
    };
    (StoreId(wire.store_id), trackers)
}
