//! Tests of placement as a whole.

use crate::{
    Placement,
    testing::{layout, member},
};

#[test]
fn every_partition_has_three_distinct_owners() {
    let layout = layout((0..10).map(|n| member(n, 1, "")).collect());
    let placement = Placement::compute(&layout).expect("small enough");
    for partition in layout.partition_ids() {
        let mut owners = placement.owners(partition).to_vec();
        owners.sort_unstable();
        owners.dedup();
        assert_eq!(owners.len(), 3);
    }
    assert!(placement.peak_over_target() <= 1.03);
}
