//! How far nodes are with what a layout gives them, in words.

use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration};
use ringfort_client::Receiving;

/// Characters of a bar.
const BAR: u64 = 20;

/// What has come, how fast, and how long the rest takes.
pub fn amounts(receiving: &Receiving) -> String {
    let left = match receiving.left_ms {
        0 => String::new(),
        ms => {
            let left = Duration::from_secs(ms.div_ceil(1_000));
            format!(", about {} left", HumanDuration(left))
        }
    };
    let lost = match receiving.lost {
        0 => String::new(),
        lost => format!("; of {lost} too few copies count (`ringfort layout accept-loss`)"),
    };
    format!(
        "{}, {}/s{left}{lost}",
        HumanBytes(receiving.bytes),
        HumanBytes(receiving.bytes_per_s)
    )
}

/// How far a node is with what it is given, unless it is through: a bar, and what is left.
pub fn line(name: &str, receiving: &Receiving) -> Option<String> {
    let Receiving {
        partitions,
        received,
        ..
    } = *receiving;
    if received >= partitions {
        return None;
    }
    let full = (received * BAR / partitions) as usize;
    Some(format!(
        "{name} receives [{}{}] {received} of {partitions} partitions, {}",
        "#".repeat(full),
        "-".repeat(BAR as usize - full),
        amounts(receiving)
    ))
}
