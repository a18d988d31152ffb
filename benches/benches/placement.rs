//! How long it takes to place every partition, and to count what a join moves.
//!
//! The target is 100 ms for 100 members of 1,024 partitions, and 5 s for 1,000.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringfort_ring::{
    Epoch, Layout, Member, NodeName, Placement, PlacementId, StoreId, TOKENS_PER_CAPACITY, moved,
    token,
};

/// A cluster of members with capacities 1, 2 and 4 in five zones.
fn layout(partitions: u32, members: u32) -> Layout {
    let member = |number: u32| {
        let id = token(b"bench", &number.to_be_bytes()).0;
        Member {
            name: NodeName::new(format!("node-{number}")).expect("a valid name"),
            placement_id: PlacementId(id),
            store_id: StoreId(id),
            tokens: TOKENS_PER_CAPACITY << (number % 3),
            zone: format!("zone-{}", number % 5),
            client_addr: String::new(),
            peer_addr: String::new(),
            http_addr: String::new(),
        }
    };
    Layout::new(Epoch(1), partitions, 3, (0..members).map(member).collect())
        .expect("a valid layout")
}

fn placement(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("placement");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(2));
    for (partitions, members) in [
        (1024, 3),
        (1024, 30),
        (1024, 100),
        (1024, 1000),
        (16_384, 100),
    ] {
        let layout = layout(partitions, members);
        group.bench_with_input(
            BenchmarkId::new("compute", format!("{members}x{partitions}")),
            &layout,
            |b, layout| {
                b.iter(|| Placement::compute(black_box(layout)).expect("small enough"));
            },
        );
    }
    group.finish();
}

fn moves(criterion: &mut Criterion) {
    let (old, new) = (layout(1024, 100), layout(1024, 101));
    let placed = [&old, &new].map(|layout| Placement::compute(layout).expect("small enough"));
    criterion.bench_function("moved/100x1024", |b| {
        b.iter(|| moved(black_box((&old, &placed[0])), black_box((&new, &placed[1]))));
    });
}

criterion_group!(benches, placement, moves);
criterion_main!(benches);
