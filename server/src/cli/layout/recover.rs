//! `ringfort layout recover`: what is left of a cluster goes on without the majority that it lost.
//!
//! It works on one directory whose node is stopped, and asks nobody. Keeps I9: survivors that are told the same names become
//! the same cluster, which no other store can belong to, and each changes by one write of its identity. So it may be
//! stopped anywhere between two survivors: those that are through wait for the others, which are told nothing until they are, too.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use ringfort_ring::{
    ClusterId, NodeName, PartitionId, PlanHash, Recovery, StoreId, cluster_of, consensus::Promises,
    recover,
};
use ringfort_storage::{
    disk::{Disk, RealDisk},
    identity::{Identity, IdentityFile},
    store::LOCK_FILE,
};
use serde_json::json;

use super::said;
use crate::{
    bootstrap::Decree,
    cli::{
        exit::{CliError, Exit},
        out::Out,
    },
    council::{Part, part_of, promises_of},
};

/// What `layout recover` is told.
#[derive(Debug, clap::Args)]
pub struct Recover {
    /// The directory of a member that is left; its node must be stopped
    #[arg(long, value_name = "DIR", env = "RINGFORT_DATA_DIR")]
    data_dir: PathBuf,
    /// All members that are left and go on with their data; the same list for each of them
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', required = true)]
    keep: Vec<String>,
    /// Do it: the hash that the command prints without this, the same for all that are left
    #[arg(long, value_name = "HASH")]
    force: Option<PlanHash>,
}

/// Prints what a recovery would do to one directory, or does it.
///
/// # Errors
/// Exit 2 for names that make no sense, 1 if the directory cannot go on so; nothing was changed.
pub fn run(args: &Recover, out: Out) -> Result<Exit, CliError> {
    let dir = args.data_dir.display().to_string();
    let fail = |error: &dyn std::fmt::Display| CliError::failed(format!("{dir}: {error}"));
    if !args.data_dir.is_dir() {
        return Err(fail(&"there is no such directory"));
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(&args.data_dir).map_err(|e| fail(&e))?);
    let _lock = disk.lock(LOCK_FILE).map_err(|error| fail(&error))?;
    let file = IdentityFile::load(disk).map_err(|error| fail(&error))?;
    let file = file.ok_or_else(|| fail(&"it is no node's directory"))?;
    let identity = file.current();
    let cluster = ClusterId(identity.cluster_id.unwrap_or(0));
    if let Some(hash) = args.force
        && cluster == cluster_of(hash)
    {
        return said(
            out,
            json!({ "hash": hash.to_string(), "cluster_id": cluster.to_string(), "done": true }),
            &format!("{dir} belongs to the cluster {cluster} already"),
        );
    }
    let names = args.keep.iter().map(|name| NodeName::new(name.trim()));
    let keep: BTreeSet<NodeName> = names
        .collect::<Result<_, _>>()
        .map_err(|error| CliError::usage(error.to_string()))?;
    let found = Found::of(&identity, &keep).map_err(|error| fail(&error))?;
    let recovery = recover(cluster, &found.promises.decree, &keep).map_err(|error| fail(&error))?;
    let me = StoreId(identity.store_id);
    let bereaved = recovery.bereaved(me).map_err(|error| fail(&error))?;
    match args.force {
        None => {}
        Some(hash) if hash == recovery.hash => {
            file.update(|identity| change(identity, &found.founding, &recovery, &bereaved))
                .map_err(|error| fail(&error))?;
        }
        Some(hash) => {
            return Err(fail(&format!(
                "the hash is {}, and not {hash}: those that are left do not know the same newest layout. Nothing was changed \
                 here; where nothing was forced yet, start them together, until `layout show` has the same epoch at all",
                recovery.hash
            )));
        }
    }
    show(&Shown {
        args,
        keep: &keep,
        cluster,
        base: found.promises.decree.epoch().0,
        partitions: identity.partitions,
        recovery: &recovery,
        out,
    })
}

/// What a directory is before.
struct Found {
    founding: Decree,
    promises: Promises,
}

impl Found {
    fn of(identity: &Identity, keep: &BTreeSet<NodeName>) -> Result<Found, String> {
        let name = &identity.node_name;
        if identity.cluster_id.is_none() || identity.layouts.is_empty() {
            return Err(format!("{name} belongs to no cluster yet"));
        }
        let founding = Decree::decode(&identity.layouts).map_err(|error| error.to_string())?;
        let promises = promises_of(identity, &founding.layout).map_err(|e| e.to_string())?;
        match part_of(&promises, StoreId(identity.store_id)) {
            Part::Member => {}
            part => {
                return Err(format!(
                    "{name} is no member by the newest layout here: {part:?}"
                ));
            }
        }
        if !keep.iter().any(|kept| kept.as_str() == name) {
            return Err(format!(
                "it is the directory of {name}, which is not among those to keep"
            ));
        }
        Ok(Found { founding, promises })
    }
}

/// Makes the identity one of the new cluster: as a whole, by one write.
fn change(
    identity: &mut Identity,
    founding: &Decree,
    recovery: &Recovery,
    bereaved: &[PartitionId],
) {
    let founding = Decree {
        cluster: recovery.cluster,
        ..founding.clone()
    };
    let settled: Vec<u32> = bereaved.iter().map(|partition| partition.0).collect();
    let partitions = identity.partitions;
    identity.cluster_id = Some(recovery.cluster.0);
    identity.layouts = founding.encode();
    identity.votes = Promises::start(Arc::new(recovery.decree.clone())).encode();
    identity.unsynced.set_all(&settled, partitions, false);
}

/// What is printed, and of what.
struct Shown<'a> {
    args: &'a Recover,
    keep: &'a BTreeSet<NodeName>,
    cluster: ClusterId,
    base: u64,
    partitions: u32,
    recovery: &'a Recovery,
    out: Out,
}

fn show(shown: &Shown<'_>) -> Result<Exit, CliError> {
    let Shown {
        args,
        cluster,
        recovery,
        out,
        ..
    } = *shown;
    let done = args.force.is_some();
    let words = |names: &mut dyn Iterator<Item = &NodeName>| -> Vec<String> {
        names.map(ToString::to_string).collect()
    };
    let (keep, lost) = (
        words(&mut shown.keep.iter()),
        words(&mut recovery.lost.iter()),
    );
    let value = json!({
        "hash": recovery.hash.to_string(),
        "from": cluster.to_string(),
        "base": shown.base,
        "cluster_id": recovery.cluster.to_string(),
        "keep": keep,
        "lost": lost,
        "partitions": shown.partitions,
        "may_be_lost": recovery.may_be_lost,
        "gone": recovery.gone,
        "half_moved": recovery.half_moved,
        "done": done,
    });
    let mut text = format!(
        "cluster {cluster}, epoch {}: {} {} as the cluster {}, without {}, whose stores are refused for good\n",
        shown.base,
        keep.join(", "),
        if done { "goes on" } else { "would go on" },
        recovery.cluster,
        lost.join(", "),
    );
    for (count, what) in [
        (
            recovery.may_be_lost,
            "so many copies are lost that writes acknowledged by those alone are lost",
        ),
        (
            recovery.gone,
            "no copy is left: they are empty from then on",
        ),
        (
            recovery.half_moved,
            "a survivor was being given a copy, which goes, too",
        ),
    ] {
        if count > 0 {
            text += &format!(
                "note: of {count} of {} partitions {what}\n",
                shown.partitions
            );
        }
    }
    text += &match done {
        true => "start the node as before, once this was done to all that are left; contexts of earlier reads mean nothing any more"
            .to_owned(),
        false => format!(
            "nothing was changed. When this prints the same hash for all that are left, run on each\n  \
             ringfort layout recover --data-dir {} --keep {} --force {}",
            args.data_dir.display(),
            keep.join(","),
            recovery.hash
        ),
    };
    said(out, value, &text)
}
