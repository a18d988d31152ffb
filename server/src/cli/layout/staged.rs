//! Staged changes: a small file of the operator's, until they are committed or reverted.
//!
//! They are no node's: nothing that is not decided lives in the cluster, any node plans them alike, and two operators never
//! overwrite each other. What is stale by then the plan's hash finds out.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use ringfort_ring::{Change, decode_changes, encode_changes};
use serde::{Deserialize, Serialize};

use crate::cli::{encoding, exit::CliError};

/// What is staged, and for which cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// The cluster.
    pub cluster: u64,
    /// The changes, in their order.
    pub changes: Vec<Change>,
}

/// As it stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    cluster: String,
    /// In words, for who looks into the file.
    words: Vec<String>,
    /// As `ringfort_ring::encode_changes` writes them, in base64.
    changes: String,
}

impl Staged {
    /// What is staged for the cluster; nothing if there is no file.
    ///
    /// # Errors
    /// The file is damaged, or holds changes for another cluster.
    pub fn load(path: &Path, cluster: u64) -> Result<Staged, CliError> {
        let nothing = Staged {
            cluster,
            changes: Vec::new(),
        };
        let fail = |what: &dyn std::fmt::Display| {
            CliError::failed(format!(
                "{}: {what}; `layout revert` discards it",
                path.display()
            ))
        };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(nothing),
            Err(error) => return Err(fail(&error)),
        };
        let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| fail(&error))?;
        let theirs = format!("{cluster:016x}");
        if kept.cluster != theirs {
            let what = format!(
                "holds changes for cluster {}, and this is {theirs}",
                kept.cluster
            );
            return Err(fail(&what));
        }
        let bytes = encoding::unbase64(&kept.changes).map_err(|what| fail(&what))?;
        let changes = decode_changes(&bytes).map_err(|error| fail(&error))?;
        Ok(Staged { cluster, changes })
    }

    /// Keeps it, wholly or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), CliError> {
        let kept = Kept {
            cluster: format!("{:016x}", self.cluster),
            words: self.changes.iter().map(words).collect(),
            changes: encoding::base64(&encode_changes(&self.changes)),
        };
        let fail = |error: io::Error| CliError::failed(format!("{}: {error}", path.display()));
        let bytes = serde_json::to_vec_pretty(&kept).map_err(|error| fail(error.into()))?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let mut file = fs::File::create(&beside).map_err(fail)?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .map_err(fail)?;
        fs::rename(&beside, path).map_err(fail)
    }
}

/// Removes the file; gives whether there was one.
///
/// # Errors
/// It cannot be removed.
pub fn discard(path: &Path) -> Result<bool, CliError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CliError::failed(format!("{}: {error}", path.display()))),
    }
}

/// A change as a person reads it.
pub fn words(change: &Change) -> String {
    match change {
        Change::Add(member) => format!("add {} at {}", member.name, member.peer_addr),
        Change::Remove(name) => format!("remove {name}"),
        Change::Replace { old, new } => {
            format!("replace {old} by {} at {}", new.name, new.peer_addr)
        }
        Change::Set { name, tokens, zone } => {
            let tokens = tokens
                .map(|tokens| format!(" tokens {tokens}"))
                .unwrap_or_default();
            let zone = zone
                .as_ref()
                .map(|zone| format!(" zone {zone:?}"))
                .unwrap_or_default();
            format!("set {name}{tokens}{zone}")
        }
        Change::Addresses {
            name,
            client_addr,
            peer_addr,
            http_addr,
        } => format!("move {name} to client {client_addr} peer {peer_addr} http {http_addr}"),
        Change::NewStore { name, store_id } => format!("new store {store_id} of {name}"),
        Change::Excuse(name) => format!("excuse {name}"),
        Change::AcceptLoss(name) => format!("accept the loss of {name}"),
    }
}

#[cfg(test)]
mod tests {
    use ringfort_ring::NodeName;

    use super::*;

    #[test]
    fn what_is_staged_is_found_again_by_its_cluster_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("staged.json");
        assert_eq!(Staged::load(&path, 7).expect("nothing yet").changes, []);
        let name = NodeName::new("n1").expect("valid");
        let staged = Staged {
            cluster: 7,
            changes: vec![Change::Remove(name.clone()), Change::Excuse(name)],
        };
        staged.save(&path).expect("written");
        assert_eq!(Staged::load(&path, 7).expect("read"), staged);
        let error = Staged::load(&path, 8).expect_err("another cluster's");
        assert!(error.message.contains("0000000000000007"), "{error}");
        fs::write(&path, b"{}").expect("written");
        let error = Staged::load(&path, 7).expect_err("damaged");
        assert!(error.message.contains("layout revert"), "{error}");
        assert_eq!((discard(&path), discard(&path)), (Ok(true), Ok(false)));
    }
}
