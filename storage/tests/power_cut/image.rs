//! The content of a directory: what is opened, what is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The content of a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// By path relative to the root, parts joined by `/`.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Without the root itself.
    pub directories: BTreeSet<String>,
}

impl Image {
    /// Reads a directory.
    pub fn read(root: &Path) -> Self {
        let mut image = Self::default();
        image.read_into(root, "");
        image
    }

    fn read_into(&mut self, root: &Path, directory: &str) {
        for entry in std::fs::read_dir(root.join(directory)).expect("lists") {
            let entry = entry.expect("an entry");
            let name = entry
                .file_name()
                .into_string()
                .expect("our names are UTF-8");
            let path = match directory {
                "" => name,
                directory => format!("{directory}/{name}"),
            };
            if entry.file_type().expect("a type").is_dir() {
                self.read_into(root, &path);
                self.directories.insert(path);
            } else {
                let bytes = std::fs::read(entry.path()).expect("reads");
                self.files.insert(path, bytes);
            }
        }
    }

    /// Makes the directory, which must not exist.
    pub fn write(&self, root: &Path) {
        std::fs::create_dir_all(root).expect("makes the root");
        for directory in &self.directories {
            std::fs::create_dir(root.join(directory)).expect("makes a directory");
        }
        for (path, bytes) in &self.files {
            std::fs::write(root.join(path), bytes).expect("writes");
        }
    }

    /// Where the two first differ, in words.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.directories != other.directories {
            let (ours, theirs) = (&self.directories, &other.directories);
            return Some(format!("directories {ours:?}, not {theirs:?}"));
        }
        let names = self.files.keys().chain(other.files.keys());
        for name in names {
            match (self.files.get(name), other.files.get(name)) {
                (Some(ours), Some(theirs)) if ours == theirs => {}
                (Some(ours), Some(theirs)) => {
                    let at = ours.iter().zip(theirs).position(|(a, b)| a != b);
                    let (ours, theirs) = (ours.len(), theirs.len());
                    return Some(format!("{name} at {at:?} ({ours} and {theirs} bytes)"));
                }
                (ours, _) => return Some(format!("{name} is there only {}", ours.is_some())),
            }
        }
        None
    }
}
