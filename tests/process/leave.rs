//! An operator sends a node away, by one command that waits, and watches how far that is.

use std::process::Stdio;

use serde_json::Value as Json;

use crate::{
    cluster::Cluster,
    elastic::{ROWS, check_import, import, json},
    operator::{LOOK, LOOKS_MAX, Operator},
};

/// Slow enough that the change can be looked at while it runs.
const RATE: &str = "64KiB";

/// How far each node is with what it is given, as `layout show` prints it.
fn received(shown: &Json) -> Vec<(u64, u64)> {
    let receiving = shown["receiving"].as_array().expect("nodes");
    let number = |node: &Json, field: &str| node[field].as_u64().expect("a number");
    let both = |node| (number(node, "received"), number(node, "partitions"));
    receiving.iter().map(both).collect()
}

/// A plan tells about how many keys move: a quarter of three copies of each row, once all of them have reached the engine.
fn planned(operator: &Operator) {
    operator.done(&["remove", "n4"]);
    let few = 3 * ROWS as u64 / 4;
    let about = few * 9 / 10..few * 3 / 2;
    let told = (0..LOOKS_MAX).any(|_| {
        std::thread::sleep(LOOK);
        about.contains(&operator.done(&["plan"])["keys"].as_u64().expect("a number"))
    });
    let plan = operator.done(&["plan"]);
    assert!(told, "not about {few}: {plan}");
    assert_eq!(plan["members"][3]["keys_after"], 0, "{plan}");
    operator.done(&["revert"]);
}

#[test]
fn a_node_is_sent_away_by_one_command_that_ends_when_it_is_gone() {
    let mut cluster = Cluster::start_with(4, &["--transfer-rate", RATE]);
    let dir = tempfile::tempdir().expect("a directory");
    check_import(import(&cluster, dir.path(), "rows"));
    // The one address that the operator knows is that of the node that goes.
    let operator = Operator::at(cluster.nodes[3].client.to_string());
    let others = Operator::of(&cluster);
    assert_eq!(received(&others.done(&["show"])), [], "nothing moves yet");
    planned(&others);
    let mut leave = operator.command(&["remove", "n4", "--wait"]);
    let leave = leave.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let leave = leave.expect("the binary runs");
    let under_way = (0..LOOKS_MAX).any(|_| {
        std::thread::sleep(LOOK);
        let shown = received(&others.done(&["show"]));
        let some = shown.iter().any(|(received, _)| *received > 0);
        some && shown.iter().any(|(received, given)| received < given)
    });
    assert!(under_way, "nothing is shown to move");

    let output = leave.wait_with_output().expect("it ends");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let done = json(&output);
    assert!(done["ended"].as_u64() > done["epoch"].as_u64(), "{done}");
    assert_eq!(done["gone"], true, "{words}");
    assert!(words.contains(" receives ["), "{words}");
    assert!(words.contains("n4 does not answer any more"), "{words}");
    assert_eq!(cluster.ended(3).code(), Some(0), "{}", cluster.log(3));
    others.settled(3);
}

/// A commit that waits says so of a change that is through at once, too: an amendment moves nothing.
#[test]
fn what_moves_nothing_is_not_waited_for_and_nothing_else_goes_along() {
    let cluster = Cluster::start(3);
    let operator = Operator::of(&cluster);
    operator.done(&["set", "n2", "--http-addr", "127.0.0.1:1"]);
    let (code, words) = operator.refused(&["remove", "n3", "--wait"]);
    assert!(
        code == 1 && words.contains("other changes are staged"),
        "{code} {words}"
    );
    let hash = operator.done(&["plan"])["hash"]
        .as_str()
        .expect("a hash")
        .to_owned();
    assert_eq!(operator.done(&["commit", &hash, "--wait"])["epoch"], 2);
    let (_, words) = operator.refused(&["remove", "n3", "--wait"]);
    assert!(words.contains("2 members would be left"), "{words}");
}
