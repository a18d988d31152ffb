//! The classic walk of the Dynamo paper (section 4.4, figure 3), and the two stories told with it.

use super::*;

#[test]
fn d1_to_d5() {
    // A client writes at x, and again with what it read.
    let d1 = Object::empty().write(&put(1, "D1", None), dot(X, 1), NOW);
    assert_eq!(d1.clock(), &clock(&[(X, 1)]));
    let d2 = d1.write(&put(2, "D2", Some(d1.clock())), dot(X, 2), NOW);
    assert_eq!(d2.clock(), &clock(&[(X, 2)]));
    assert_eq!(texts(&d2), ["D2"]);

    // Two clients read D2 and write at y and at z.
    let d3 = d2.write(&put(3, "D3", Some(d2.clock())), dot(Y, 1), NOW);
    assert_eq!(d3.clock(), &clock(&[(X, 2), (Y, 1)]));
    let d4 = d2.write(&put(4, "D4", Some(d2.clock())), dot(Z, 1), NOW);
    assert_eq!(d4.clock(), &clock(&[(X, 2), (Z, 1)]));
    assert!(!d3.clock().descends(d4.clock()) && !d4.clock().descends(d3.clock()));

    // A reader finds both, and writes what it made of them at x.
    let both = d3.merge(d4);
    assert_eq!(texts(&both), ["D3", "D4"]);
    let d5 = both.write(&put(5, "D5", Some(both.clock())), dot(X, 3), NOW);
    assert_eq!(d5.clock(), &clock(&[(X, 3), (Y, 1), (Z, 1)]));
    assert_eq!(texts(&d5), ["D5"]);

    // Whoever still holds an older version learns the newest, and gives nothing old back.
    for older in [&d1, &d2, &both] {
        let merged = older.clone().merge(d5.clone());
        assert_eq!(
            (texts(&merged), merged.clock()),
            (vec!["D5".to_owned()], d5.clock())
        );
    }
}

#[test]
fn two_writers_without_context_leave_two_siblings_and_one_with_the_merged_context_leaves_one() {
    let one = Object::empty().write(&put(1, "left", None), dot(X, 1), NOW);
    let two = one.write(&put(2, "right", None), dot(X, 2), NOW);
    assert_eq!(texts(&two), ["left", "right"]);
    let three = two.write(&put(3, "both", Some(two.clock())), dot(X, 3), NOW);
    assert_eq!(texts(&three), ["both"]);
}

#[test]
fn a_stale_context_replaces_exactly_what_it_covers() {
    // What plain version vectors get wrong: one node, interleaved clients, no explosion of siblings.
    let one = Object::empty().write(&put(1, "a", None), dot(X, 1), NOW);
    let stale = one.clock().clone();
    let two = one.write(&put(2, "b", Some(&stale)), dot(X, 2), NOW);
    let three = two.write(&put(3, "c", Some(&stale)), dot(X, 3), NOW);
    assert_eq!(texts(&three), ["b", "c"]);
    let four = three.write(&put(4, "d", Some(two.clock())), dot(X, 4), NOW);
    assert_eq!(texts(&four), ["c", "d"]);
}

#[test]
fn a_context_from_elsewhere_covers_what_has_not_arrived_yet() {
    let at_x = Object::empty().write(&put(1, "old", None), dot(X, 1), NOW);
    // y has nothing; a client that read x writes there.
    let at_y = Object::empty().write(&put(2, "new", Some(at_x.clock())), dot(Y, 1), NOW);
    assert_eq!(at_y.clock(), &clock(&[(X, 1), (Y, 1)]));
    assert_eq!(texts(&at_y.merge(at_x)), ["new"]);
}
