//! How layouts and plans are printed.

use ringfort_client::{ClusterStatus, LayoutPlan, Layouts, PlannedMember, Receiving};
use ringfort_ring::{Change, capacity_of_tokens};
use serde_json::{Value as Json, json};

use super::{
    keys::{Keys, Moves},
    staged::words,
    watch::receivers,
};
use crate::cli::{
    exit::CliError,
    out::{Out, table},
    progress,
};

/// Prints the live layouts, how far the change of them is if two are, and what is staged.
pub fn layouts(
    layouts: &Layouts,
    moving: Option<&ClusterStatus>,
    staged: &[Change],
    out: Out,
) -> Result<(), CliError> {
    let newest = layouts.live.last().map_or(0, |layout| layout.epoch);
    let receivers = moving.map_or_else(Vec::new, |status| receivers(status, newest));
    let cluster = format!("{:016x}", layouts.cluster_id);
    let staged: Vec<String> = staged.iter().map(words).collect();
    if out.json {
        let live: Vec<Json> = layouts.live.iter().map(layout_json).collect();
        let excused: Vec<String> = layouts
            .excused
            .iter()
            .map(|s| format!("{s:016x}"))
            .collect();
        return out.value(&json!({
            "cluster_id": cluster,
            "epoch": layouts.epoch,
            "live": live,
            "excused": excused,
            "receiving": receivers.iter().map(receiver_json).collect::<Vec<Json>>(),
            "waiting": layouts.waiting.iter().map(member_json).collect::<Vec<Json>>(),
            "staged": staged,
        }));
    }
    let mut text = format!("cluster {cluster}, epoch {}\n", layouts.epoch);
    for layout in &layouts.live {
        text += &format!(
            "\nlayout {}: {} partitions, {} copies of each\n\n",
            layout.epoch, layout.partitions, layout.replicas
        );
        let rows: Vec<Vec<String>> = layout.members.iter().map(row).collect();
        text += &table(
            &[
                "NAME", "ZONE", "CAPACITY", "STORE", "CLIENT", "PEER", "HTTP",
            ],
            &rows,
        );
    }
    if layouts.live.len() > 1 {
        text +=
            "\nwrites go to both layouts until all have received what the newer one gives them\n";
    }
    for (name, receiving) in receivers {
        let line = progress::line(name, &receiving);
        let through = || format!("{name} has received all {}", receiving.partitions);
        text += &format!("{}\n", line.unwrap_or_else(through));
    }
    for node in &layouts.waiting {
        text += &format!(
            "\n{} at {} waits to be added: `ringfort layout add {}`\n",
            node.name, node.peer_addr, node.name
        );
    }
    if !staged.is_empty() {
        text += &format!("\nstaged: {}\n", staged.join(", "));
    }
    out.table(&text)
}

fn row(member: &ringfort_proto::v1::Member) -> Vec<String> {
    vec![
        member.name.clone(),
        member.zone.clone(),
        capacity_of_tokens(member.tokens).to_string(),
        format!("{:016x}", member.store_id),
        member.client_addr.clone(),
        member.peer_addr.clone(),
        member.http_addr.clone(),
    ]
}

fn planned_json(member: &PlannedMember, moves: Option<Moves>) -> Json {
    let mut json = json!(member);
    json["keys_before"] = json!(moves.and_then(|moves| moves.before));
    json["keys_after"] = json!(moves.map(|moves| moves.after));
    json["keys_acquired"] = json!(moves.map(|moves| moves.acquired));
    json
}

fn receiver_json((name, receiving): &(&str, Receiving)) -> Json {
    let mut json = json!(receiving);
    json["name"] = json!(name);
    json
}

fn layout_json(layout: &ringfort_proto::v1::Layout) -> Json {
    json!({
        "epoch": layout.epoch,
        "partitions": layout.partitions,
        "replicas": layout.replicas,
        "members": layout.members.iter().map(member_json).collect::<Vec<Json>>(),
    })
}

fn member_json(member: &ringfort_proto::v1::Member) -> Json {
    json!({
        "name": member.name,
        "zone": member.zone,
        "capacity": capacity_of_tokens(member.tokens),
        "store_id": format!("{:016x}", member.store_id),
        "placement_id": format!("{:016x}", member.placement_id),
        "client": member.client_addr,
        "peer": member.peer_addr,
        "http": member.http_addr,
    })
}

/// Prints what the staged changes would do; with about how many keys, if `status` says how many there are.
pub fn plan(
    plan: &LayoutPlan,
    status: Option<&ClusterStatus>,
    staged: &[Change],
    out: Out,
) -> Result<(), CliError> {
    let keys = status.and_then(Keys::of);
    let moves = |member: &PlannedMember| keys.as_ref().map(|keys| keys.moves(member));
    let moved: Option<u64> = plan.members.iter().map(|m| Some(moves(m)?.acquired)).sum();
    let staged: Vec<String> = staged.iter().map(words).collect();
    if out.json {
        return out.value(&json!({
            "base": plan.base,
            "hash": plan.hash.to_string(),
            "places": plan.places,
            "staged": staged,
            "members": plan.members.iter().map(|m| planned_json(m, moves(m))).collect::<Vec<Json>>(),
            "keys": moved,
            "copies": plan.copies,
            "fair_copies": plan.fair_copies,
            "notices": plan.notices,
        }));
    }
    let capacity = |tokens: Option<u32>| {
        tokens.map_or_else(
            || "-".to_owned(),
            |tokens| capacity_of_tokens(tokens).to_string(),
        )
    };
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let rows: Vec<Vec<String>> = plan
        .members
        .iter()
        .map(|member| {
            let moves = moves(member);
            vec![
                member.name.clone(),
                capacity(member.tokens_before),
                capacity(member.tokens_after),
                member.before.to_string(),
                member.after.to_string(),
                member.acquired.to_string(),
                member.released.to_string(),
                number(moves.and_then(|moves| moves.before)),
                number(moves.map(|moves| moves.after)),
                number(moves.map(|moves| moves.acquired)),
            ]
        })
        .collect();
    let head = [
        "NAME", "CAPACITY", "THEN", "OWNS", "THEN", "RECEIVES", "GIVES UP", "KEYS", "THEN",
        "RECEIVES",
    ];
    let mut text = format!(
        "{}\n\non epoch {}: {} copies of partitions move ({:.1} is the fair share), about {} keys\n\n{}",
        staged.join("\n"),
        plan.base,
        plan.copies,
        plan.fair_copies,
        number(moved),
        table(&head, &rows)
    );
    for notice in &plan.notices {
        text += &format!("\nnote: {notice}\n");
    }
    text += &format!("\nringfort layout commit {}\n", plan.hash);
    out.table(&text)
}
