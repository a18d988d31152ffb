//! The client: what every clone can do.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    Error,
    builder::ClientBuilder,
    inner::Inner,
    verbs::{
        BatchGet, BatchWrite, Change, Current, Delete, Get, Mutation, Put, ReadModifyWrite, Scan,
        Undelete,
    },
};

/// A client of one cluster, or of one node: there is no difference.
///
/// Cloning is cheap, all clones share their connections, and every method takes `&self`. Nothing is connected before
/// the first call; that call, and so every later one, has to be made inside a tokio runtime that stays alive.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl Client {
    /// Settings for a new client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Client { inner }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Stores a value. Without a [context](Put::context) it stands beside what is there, as a sibling; with one it
    /// replaces what that context covers.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Put {
        Put::new(self.clone(), copied(key), value.into())
    }

    /// Stores a value as JSON.
    ///
    /// # Errors
    /// [`Kind::Config`](crate::Kind::Config) if it has no JSON form.
    pub fn put_json(
        &self,
        key: impl AsRef<[u8]>,
        value: &impl serde::Serialize,
    ) -> Result<Put, Error> {
        let json = serde_json::to_vec(value)
            .map_err(|error| Error::config(format!("the value has no JSON form: {error}")))?;
        Ok(self.put(key, json))
    }

    /// Reads all siblings of a key. Not found is an answer with no siblings, not an error.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get {
        Get::new(self.clone(), copied(key))
    }

    /// Deletes what a [context](Delete::context) covers. Without one it reads the key once and deletes what it saw;
    /// values written meanwhile stay.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Delete {
        Delete::new(self.clone(), copied(key))
    }

    /// Brings the value back that a delete replaced, while nodes keep it (their setting `soft_delete`, a day by default): reads
    /// it, and puts it with the context of that read. `None`: there is nothing to bring back.
    ///
    /// It is an error if there is a value already ([`Kind::ConditionFailed`](crate::Kind)), and if deletes replaced several
    /// ([`Kind::SeveralSiblings`](crate::Kind)): read them with [`Get::deleted`] and put one. Like
    /// [`if_absent`](Put::if_absent) this is not exclusive: what others write meanwhile may stand beside it.
    pub fn undelete(&self, key: impl AsRef<[u8]>) -> Undelete {
        Undelete::new(self.clone(), copied(key))
    }

    /// Reads several keys. The answers keep the order of the keys, misses included.
    pub fn batch_get<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> BatchGet {
        BatchGet::new(self.clone(), keys.into_iter().map(copied).collect())
    }

    /// Makes several writes, each for itself: some may fail where others succeed. The answers keep the order. For one
    /// key twice in one batch, no order is promised.
    pub fn batch_write(&self, mutations: impl IntoIterator<Item = Mutation>) -> BatchWrite {
        BatchWrite::new(self.clone(), mutations.into_iter().collect())
    }

    /// Streams all keys in token order: of the client's namespace if one is set, else of all.
    pub fn scan(&self) -> Scan {
        Scan::new(self.clone())
    }

    /// Reads a key, shows its siblings to `change`, and writes what comes back with the context of the read, so that
    /// the siblings become one.
    ///
    /// If others wrote at the same time, the answer to the write tells of several siblings; then it reads again and
    /// asks again, a bounded number of times. `change` then sees its own earlier value among the siblings (as
    /// [`Current::written`]) and should merge rather than change once more. If siblings are left after the last round,
    /// [`Written::siblings`](crate::Written::siblings) is above 1; all writes that were acknowledged are kept.
    pub fn read_modify_write<F>(&self, key: impl AsRef<[u8]>, change: F) -> ReadModifyWrite<F>
    where
        F: FnMut(&Current<'_>) -> Change + Send,
    {
        ReadModifyWrite::new(self.clone(), copied(key), change)
    }
}

fn copied(key: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(key.as_ref())
}
