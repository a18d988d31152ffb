//! The algebra of merging over *all* small objects, reachable or not: what `merge.rs` claims of any copies that
//! `Object::from_parts` accepts.

use proptest::prelude::*;

use super::*;

const ACTORS: u64 = 3;
const COUNTERS: u64 = 3;
const REQUESTS: u64 = 3;

/// Which request each dot was minted for: one dot is one event, so all copies agree on it.
type Events = Vec<u64>;

/// The raw choices for one copy: counters of its clock; for each dot whether it is listed; for each request
/// whether it is live.
type Choices = (Vec<u64>, Vec<bool>, Vec<bool>);

fn choices() -> impl Strategy<Value = Choices> {
    (
        prop::collection::vec(0..=COUNTERS, ACTORS as usize),
        prop::collection::vec(any::<bool>(), (ACTORS * COUNTERS) as usize),
        prop::collection::vec(any::<bool>(), REQUESTS as usize),
    )
}

fn object(events: &Events, (counters, listed, live): &Choices) -> Object {
    let mut clock = Clock::EMPTY;
    for (actor, &counter) in counters.iter().enumerate() {
        clock.insert(dot(ActorId(actor as u64), counter));
    }
    let all = (0..ACTORS)
        .flat_map(|actor| (1..=COUNTERS).map(move |counter| dot(ActorId(actor), counter)));
    let all: Vec<Dot> = all.collect();
    let (mut siblings, mut applied) = (Vec::new(), Vec::new());
    for number in 0..REQUESTS {
        let request = RequestId::new(1, number);
        let dots = all.iter().zip(events).zip(listed);
        let dots = dots
            .filter(|&((dot, event), listed)| *event == number && *listed && clock.covers(*dot));
        let Some(dots) = Dots::from_ascending(dots.map(|((dot, _), _)| *dot).collect()) else {
            continue;
        };
        if live[number as usize] {
            siblings.push(Sibling {
                dot: dots.lowest(),
                request,
                expires_at_ms: 0,
                payload: Payload::Value(value(&number.to_string())),
            });
        }
        applied.push(Applied {
            request,
            at_ms: NOW,
            dots,
        });
    }
    siblings.sort_by_key(|s| s.dot);
    Object::from_parts(clock, siblings, applied).expect("made to be valid")
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 20_000,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(6),
        ..ProptestConfig::default()
    })]

    #[test]
    fn merging_is_commutative_associative_idempotent(
        events in prop::collection::vec(0..REQUESTS, (ACTORS * COUNTERS) as usize),
        a in choices(),
        b in choices(),
        c in choices(),
    ) {
        let [a, b, c] = [a, b, c].map(|choices| object(&events, &choices));
        let ab = a.clone().merge(b.clone());
        check(&ab);
        prop_assert_eq!(&ab, &b.clone().merge(a.clone()));
        prop_assert_eq!(&ab.clone().merge(ab.clone()), &ab);
        prop_assert_eq!(&ab.clone().merge(a.clone()), &ab);
        prop_assert_eq!(ab.merge(c.clone()), a.merge(b.merge(c)));
    }
}
