//! Merging copies of one key. Keeps I7 where [`Object::merge`] cannot: a replica that only ever merges would gather every
//! request that it ever heard of, since lists of applied requests are united and only a coordinator's write prunes them.

use std::sync::Arc;

use crate::key::Key;
use crate::record::Record;
use crate::version::{APPLIED_MAX, Floor, Object, RequestId};

/// The merger of two copies, with the list of applied requests cut to the newest [`APPLIED_MAX`] beside those of
/// siblings: there the promise to know a retry ends.
pub(super) fn merge(one: Object, other: Object, floor: Floor) -> Object {
    let merged = one.merge(other).without_answered(floor);
    if merged.applied().len() <= APPLIED_MAX + merged.siblings().len() {
        return merged;
    }
    let (clock, siblings, mut applied) = merged.into_parts();
    let has_sibling =
        |request: RequestId| siblings.iter().any(|sibling| sibling.request == request);
    let idle = applied.iter().filter(|entry| !has_sibling(entry.request));
    let mut idle: Vec<_> = idle.map(|entry| (entry.at_ms, entry.request)).collect();
    idle.sort_unstable();
    let oldest = idle
        .len()
        .checked_sub(APPLIED_MAX)
        .map(|excess| idle[excess]);
    applied
        .retain(|entry| has_sibling(entry.request) || Some((entry.at_ms, entry.request)) >= oldest);
    Object::from_parts(clock, siblings, applied)
        .expect("an object without some idle requests is an object")
}

/// What an operand makes of the record under it.
pub(super) fn fold(key: &Key, under: Option<&Arc<Record>>, operand: &Arc<Record>) -> Arc<Record> {
    match under {
        None => Arc::clone(operand),
        Some(under) if operand.object().is_empty() => Arc::clone(under),
        Some(under) => {
            let folded = merge(
                under.object().clone(),
                operand.object().clone(),
                Floor::default(),
            );
            Arc::new(Record::new(key, folded))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::rig::foreign;

    #[test]
    fn a_replica_of_a_hot_key_remembers_the_newest_requests_only() {
        let mut writer = Object::empty();
        let mut replica = Object::empty();
        for sequence in 1..=1_000 {
            let request = RequestId {
                client: 1,
                sequence,
            };
            writer = foreign(&writer, 2, sequence, request, b"v");
            replica = merge(replica, writer.clone(), Floor::default());
            assert!(replica.applied().len() <= APPLIED_MAX + 1);
            assert_eq!(replica.siblings(), writer.siblings());
        }
        assert!(
            replica
                .find(RequestId {
                    client: 1,
                    sequence: 940
                })
                .is_some()
        );
        assert!(
            replica
                .find(RequestId {
                    client: 1,
                    sequence: 900
                })
                .is_none()
        );
    }

    #[test]
    fn what_the_client_has_an_answer_to_is_forgotten() {
        let mut writer = Object::empty();
        let mut replica = Object::empty();
        for sequence in 1..=100 {
            let request = RequestId {
                client: 1,
                sequence,
            };
            writer = foreign(&writer, 2, sequence, request, b"v");
            let floor = Floor {
                client: 1,
                lowest_unanswered: sequence.saturating_sub(3),
            };
            replica = merge(replica, writer.clone(), floor);
            assert!(replica.applied().len() <= 5, "{}", replica.applied().len());
            assert!(replica.find(request).is_some());
        }
    }

    #[test]
    fn short_lists_are_united() {
        let request = |client| RequestId {
            client,
            sequence: 1,
        };
        let base = foreign(&Object::empty(), 2, 1, request(1), b"base");
        let one = foreign(&base, 3, 1, request(2), b"one");
        let other = foreign(&base, 4, 1, request(3), b"other");
        let merged = merge(one.clone(), other.clone(), Floor::default());
        assert_eq!(merged, one.merge(other));
        assert_eq!(merged.applied().len(), 3);
    }
}
