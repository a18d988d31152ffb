//! What `/metrics` shows of the other nodes and the links to them.

use std::sync::Arc;

use prometheus_client::registry::Unit;
use ringfort_ring::gossip::{NodeHealth, Standing};

use super::Gossiper;
use crate::metrics::{Family, FamilyProbe};

/// Reads the figures of each member of the layout but this one.
pub fn figures(gossip: &Arc<Gossiper>) -> FamilyProbe {
    let gossip = Arc::clone(gossip);
    Box::new(move || {
        let view = gossip.parts.views.current();
        let me = gossip.parts.me.store_id;
        let others = view.members().filter(|m| m.store_id != me);
        let healths: Vec<(String, NodeHealth)> = others
            .filter_map(|m| Some((m.name.to_string(), gossip.health(m.store_id)?)))
            .collect();
        families(&healths)
    })
}

fn families(healths: &[(String, NodeHealth)]) -> Vec<Family> {
    let family = |name, help, unit, value: fn(&NodeHealth) -> f64| Family {
        name,
        help,
        unit,
        label: "peer",
        values: healths
            .iter()
            .map(|(peer, health)| (peer.clone(), value(health)))
            .collect(),
    };
    let seconds = || Some(Unit::Seconds);
    vec![
        family(
            "peer_up",
            "1 while the member is up, by gossip",
            None,
            |h| f64::from(u8::from(h.standing == Standing::Up)),
        ),
        family(
            "peer_suspected",
            "1 while this node suspects the member",
            None,
            |h| f64::from(u8::from(h.suspected)),
        ),
        family(
            "peer_phi",
            "How suspicious the member's silence is: 8 is suspected",
            None,
            |h| h.phi_milli as f64 / 1e3,
        ),
        family(
            "peer_silence",
            "Since the member's last heartbeat came, by whatever way",
            seconds(),
            |h| h.silence_ms as f64 / 1e3,
        ),
        family(
            "peer_flaps",
            "Times that the member was down and came back without a start",
            None,
            |h| h.flaps as f64,
        ),
        family(
            "peer_link_answered_ratio",
            "Share of exchanges of gossip with the member that were answered, recent ones weighing more",
            None,
            |h| h.link.answered_permille as f64 / 1e3,
        ),
        family(
            "peer_link_round_trip",
            "One exchange of gossip with the member, recent ones weighing more",
            seconds(),
            |h| h.link.round_trip_ms as f64 / 1e3,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use ringfort_ring::gossip::LinkHealth;

    use super::*;

    #[test]
    fn each_member_has_its_figures() {
        let health = NodeHealth {
            standing: Standing::Down,
            suspected: true,
            phi_milli: 8_500,
            silence_ms: 4_000,
            flaps: 2,
            link: LinkHealth::default(),
        };
        let families = families(&[("ash".to_owned(), health)]);
        let values: Vec<_> = families.iter().map(|f| (f.name, f.values[0].1)).collect();
        assert_eq!(
            values,
            [
                ("peer_up", 0.0),
                ("peer_suspected", 1.0),
                ("peer_phi", 8.5),
                ("peer_silence", 4.0),
                ("peer_flaps", 2.0),
                ("peer_link_answered_ratio", 1.0),
                ("peer_link_round_trip", 0.0),
            ]
        );
    }
}
