//! The simulated directory tree: names as a process sees them, as the disk holds them, and the changes between.

use std::collections::{BTreeMap, BTreeSet};

use super::super::parent;
use super::chance::Chance;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Directory,
    /// A file, by its number.
    File(u64),
}

/// A change of names, in one directory.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Make {
        name: String,
        entry: Entry,
    },
    Remove {
        name: String,
    },
    Rename {
        from: String,
        to: String,
        entry: Entry,
    },
}

impl Change {
    fn directory(&self) -> &str {
        match self {
            Change::Make { name, .. } | Change::Remove { name } => parent(name),
            Change::Rename { to, .. } => parent(to),
        }
    }
}

type Tree = BTreeMap<String, Entry>;

/// The directory tree in memory and on disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    current: Tree,
    durable: Tree,
    /// Changes not synced, oldest first.
    unsynced: Vec<Change>,
}

impl Names {
    /// Looks a name up; the root is a directory.
    pub(super) fn get(&self, name: &str) -> Option<Entry> {
        if name.is_empty() {
            Some(Entry::Directory)
        } else {
            self.current.get(name).copied()
        }
    }

    /// The file of this name.
    pub(super) fn file(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Some(Entry::File(file)) => Some(file),
            _ => None,
        }
    }

    /// Own names in a directory, sorted.
    pub(super) fn list(&self, directory: &str) -> Vec<String> {
        let inside = self.current.keys().filter(|name| parent(name) == directory);
        let skip = if directory.is_empty() {
            0
        } else {
            directory.len() + 1
        };
        inside.map(|name| name[skip..].to_owned()).collect()
    }

    /// Applies a change in memory; the disk learns of it by a sync, or by chance.
    pub(super) fn change(&mut self, change: Change) {
        apply(&mut self.current, &change);
        self.unsynced.push(change);
    }

    /// Makes the changes of one directory durable.
    pub(super) fn sync(&mut self, directory: &str) {
        for change in std::mem::take(&mut self.unsynced) {
            if change.directory() == directory {
                apply(&mut self.durable, &change);
            } else {
                self.unsynced.push(change);
            }
        }
    }

    /// Each unsynced change happened or did not; what hangs in a directory that is not there is gone.
    pub(super) fn crash(&mut self, chance: &mut Chance) {
        for change in std::mem::take(&mut self.unsynced) {
            if chance.coin() {
                apply(&mut self.durable, &change);
            }
        }
        let mut kept = Tree::new();
        // Parents sort before what they hold.
        for (name, entry) in std::mem::take(&mut self.durable) {
            let directory = parent(&name);
            if directory.is_empty() || kept.get(directory) == Some(&Entry::Directory) {
                kept.insert(name, entry);
            }
        }
        self.current = kept.clone();
        self.durable = kept;
    }

    /// Puts a durable file in place, with its directories.
    pub(super) fn put_durable(&mut self, name: &str, file: u64) {
        for tree in [&mut self.current, &mut self.durable] {
            let mut directory = parent(name);
            while !directory.is_empty() {
                tree.insert(directory.to_owned(), Entry::Directory);
                directory = parent(directory);
            }
            tree.insert(name.to_owned(), Entry::File(file));
        }
    }

    /// Numbers of the files that have a name, in memory or on disk.
    pub(super) fn files(&self) -> BTreeSet<u64> {
        let entries = self.current.values().chain(self.durable.values());
        entries
            .filter_map(|entry| match entry {
                Entry::File(file) => Some(*file),
                Entry::Directory => None,
            })
            .collect()
    }
}

fn apply(tree: &mut Tree, change: &Change) {
    match change {
        Change::Make { name, entry } => {
            tree.insert(name.clone(), *entry);
        }
        Change::Remove { name } => {
            tree.remove(name);
        }
        Change::Rename { from, to, entry } => rename(tree, from, to, *entry),
    }
}

/// Moves a name and all below it. A rename that reached the disk names its file even if the making of the old name
/// did not reach it.
fn rename(tree: &mut Tree, from: &str, to: &str, entry: Entry) {
    if tree.get(from) == Some(&entry) {
        tree.remove(from);
    }
    tree.insert(to.to_owned(), entry);
    let prefix = format!("{from}/");
    let below: Vec<String> = tree
        .keys()
        .filter(|name| name.starts_with(&prefix))
        .cloned()
        .collect();
    for name in below {
        let entry = tree.remove(&name).expect("just listed");
        tree.insert(format!("{to}/{}", &name[prefix.len()..]), entry);
    }
}
