//! Prints what placement reaches: the peak load, and what one join moves, for clusters of several sizes and kinds.
//!
//! ```console
//! $ cargo run --release -p ringfort-ring --example placement_figures [PARTITIONS]
//! $ cargo run --release -p ringfort-ring --example placement_figures least
//! ```
//!
//! Each line tells the worst of four families of placement ids. `least` looks for the fewest partitions with which no load is
//! over 1.03 times its target and a join moves no more than 1.2 times its fair share, and says how long one such placement takes.

use std::time::Instant;

use ringfort_ring::{
    DEFAULT_PARTITIONS, DEFAULT_REPLICAS, Epoch, Layout, Member, NodeName, PAIRS_MAX,
    PARTITIONS_MAX, Placement, PlacementId, StoreId, TOKENS_PER_CAPACITY, moved, token,
};

const SIZES: [u32; 9] = [3, 5, 8, 12, 20, 30, 50, 75, 100];
const FAMILIES: u32 = 4;
/// What `least` looks at …
const SIZES_LEAST: [u32; 5] = [3, 10, 30, 100, 300];
/// … from so many partitions on.
const PARTITIONS_LEAST: u32 = 64;
/// What a join may move, in terms of its fair share.
const MOVED_MAX: f64 = 1.2;
/// The highest load, in terms of its target, give or take what a division loses.
const PEAK_MAX: f64 = 1.03 + 1e-9;

/// The capacity and the zone of the member of that number.
type Kind = fn(u32) -> (u32, String);

const KINDS: [(&str, Kind); 5] = [
    ("equal", |_| (1, String::new())),
    ("capacities 1, 2, 4", |number| {
        (1 << (number % 3), String::new())
    }),
    ("three zones", |number| (1, format!("zone-{}", number % 3))),
    // The same shares, of more virtual nodes.
    ("all of capacity 16", |_| (16, String::new())),
    ("16, three zones", |number| {
        (16, format!("zone-{}", number % 3))
    }),
];

fn place(kind: Kind, family: u32, count: u32, partitions: u32) -> (Layout, Placement) {
    let member = |number: u32| {
        let id = token(&family.to_be_bytes(), &number.to_be_bytes()).0;
        let (capacity, zone) = kind(number);
        Member {
            name: NodeName::new(format!("node-{number}")).expect("a valid name"),
            placement_id: PlacementId(id),
            store_id: StoreId(!id),
            tokens: capacity * TOKENS_PER_CAPACITY,
            zone,
            client_addr: String::new(),
            peer_addr: String::new(),
            http_addr: String::new(),
        }
    };
    let members = (0..count).map(member).collect();
    let layout =
        Layout::new(Epoch(1), partitions, DEFAULT_REPLICAS, members).expect("a valid layout");
    let placement = Placement::compute(&layout).expect("small enough");
    (layout, placement)
}

/// The peak load, and what one join moves in terms of its fair share: the worst of all families.
fn worst(kind: Kind, count: u32, partitions: u32) -> (f64, f64) {
    let (mut peak, mut share) = (0.0_f64, 0.0_f64);
    for family in 0..FAMILIES {
        let (old, new) = (
            place(kind, family, count, partitions),
            place(kind, family, count + 1, partitions),
        );
        let moves = moved((&old.0, &old.1), (&new.0, &new.1));
        peak = peak.max(old.1.peak_over_target());
        share = share.max(f64::from(moves.total()) / moves.fair_share());
    }
    (peak, share)
}

fn least() {
    println!("{DEFAULT_REPLICAS} copies of each partition");
    println!("members  kind                partitions  peak/target  moved/fair share  ms");
    for (name, kind) in KINDS {
        for count in SIZES_LEAST {
            let sizes = PARTITIONS_LEAST.ilog2()..=PARTITIONS_MAX.ilog2();
            let possible = sizes
                .map(|bits| 1_u32 << bits)
                .filter(|&partitions| u64::from(partitions) * u64::from(count + 1) <= PAIRS_MAX);
            let mut tried = possible.map(|partitions| (partitions, worst(kind, count, partitions)));
            let good =
                |(_, (peak, share)): &(u32, (f64, f64))| *peak <= PEAK_MAX && *share <= MOVED_MAX;
            let Some((partitions, (peak, share))) = tried.find(good) else {
                println!("{count:7}  {name:18}  no number of partitions is enough");
                continue;
            };
            #[expect(clippy::disallowed_methods, reason = "measures how long it takes")]
            let began = Instant::now();
            place(kind, 0, count, partitions);
            #[expect(clippy::disallowed_methods, reason = "measures how long it takes")]
            let took = began.elapsed().as_secs_f64() * 1_000.0;
            println!("{count:7}  {name:18}  {partitions:10}  {peak:11.3}  {share:16.2}  {took:.0}");
        }
    }
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("least") {
        return least();
    }
    let partitions = std::env::args().nth(1).map_or(DEFAULT_PARTITIONS, |text| {
        text.parse().expect("a number of partitions")
    });
    println!("{partitions} partitions, {DEFAULT_REPLICAS} copies of each");
    println!("members  kind                peak/target  moved by one join / fair share");
    for (name, kind) in KINDS {
        for count in SIZES {
            let (peak, share) = worst(kind, count, partitions);
            println!("{count:7}  {name:18}  {peak:11.3}  {share:.2}");
        }
    }
}
