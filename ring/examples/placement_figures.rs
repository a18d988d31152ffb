//! Prints what placement reaches: the peak load, and what one join moves, for clusters of several sizes and kinds.
//!
//! ```console
//! $ cargo run --release -p ringfort-ring --example placement_figures [PARTITIONS]
//! ```
//!
//! Each line tells the worst of four families of placement ids.

use ringfort_ring::{
    DEFAULT_PARTITIONS, DEFAULT_REPLICAS, Epoch, Layout, Member, NodeName, Placement, PlacementId,
    StoreId, TOKENS_PER_CAPACITY, moved, token,
};

const SIZES: [u32; 9] = [3, 5, 8, 12, 20, 30, 50, 75, 100];
const FAMILIES: u32 = 4;

/// The capacity and the zone of the member of that number.
type Kind = fn(u32) -> (u32, String);

const KINDS: [(&str, Kind); 3] = [
    ("equal", |_| (1, String::new())),
    ("capacities 1, 2, 4", |number| {
        (1 << (number % 3), String::new())
    }),
    ("three zones", |number| (1, format!("zone-{}", number % 3))),
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

fn main() {
    let partitions = std::env::args().nth(1).map_or(DEFAULT_PARTITIONS, |text| {
        text.parse().expect("a number of partitions")
    });
    println!("{partitions} partitions, {DEFAULT_REPLICAS} copies of each");
    println!("members  kind                peak/target  moved by one join / fair share");
    for (name, kind) in KINDS {
        for count in SIZES {
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
            println!("{count:7}  {name:18}  {peak:11.3}  {share:.2}");
        }
    }
}
