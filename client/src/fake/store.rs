//! The memory of a fake cluster: siblings as the real one has them, kept by one actor.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use bytes::{BufMut, Bytes};
use ringfort_proto::{
    Failure, Reason,
    v1::{self, operation, operation_result},
};

use crate::{call::token_of, inner::DEFAULT_NAMESPACE};

/// The longest namespace and key together, in bytes.
const KEY_BYTES_MAX: usize = 400;
/// The longest value, in bytes.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// The most siblings under one key.
const SIBLINGS_MAX: usize = 64;
/// How long the values that a delete replaced can be undeleted, in ms.
const SOFT_DELETE_MS: u64 = 24 * 60 * 60 * 1_000;
/// Keys of a page whose request has no limit.
const PAGE: usize = 100;

/// Where a key stands: its token, then its framed bytes.
type Place = (u64, Vec<u8>);

/// All objects, and the request ids that were applied.
#[derive(Debug, Default)]
pub(super) struct Store {
    objects: BTreeMap<Place, Object>,
    applied: BTreeSet<(u64, u64)>,
}

#[derive(Debug)]
struct Object {
    key: v1::Key,
    /// The highest counter that was minted; a context is this number.
    clock: u64,
    siblings: Vec<Kept>,
    tombstones: Vec<Tombstone>,
}

#[derive(Debug)]
struct Kept {
    dot: u64,
    value: Bytes,
    expires_at_ms: u64,
}

/// What a delete left.
#[derive(Debug)]
struct Tombstone {
    dot: u64,
    at_ms: u64,
    values: Vec<Bytes>,
}

/// What the store is told of the cluster around it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings {
    pub(super) now_ms: u64,
    /// N′.
    pub(super) replicas: u32,
    /// Nodes that run.
    pub(super) alive: u32,
}

impl Store {
    /// Applies one operation.
    pub(super) fn serve(
        &mut self,
        kind: operation::Kind,
        around: Surroundings,
    ) -> Result<operation_result::Kind, Failure> {
        match kind {
            operation::Kind::Put(put) => self.put(put, around).map(operation_result::Kind::Put),
            operation::Kind::Get(get) => self.get(get, around).map(operation_result::Kind::Get),
            operation::Kind::Delete(delete) => self
                .delete(delete, around)
                .map(operation_result::Kind::Delete),
        }
    }

    fn put(
        &mut self,
        put: v1::PutRequest,
        around: Surroundings,
    ) -> Result<v1::PutResponse, Failure> {
        let key = checked(put.key)?;
        if put.value.len() > VALUE_BYTES_MAX {
            return Err(Failure::new(Reason::TooLarge, "the value is too large")
                .with("limit", VALUE_BYTES_MAX));
        }
        let options = put.options.unwrap_or_default();
        let evidence = quorum(options.w, around)?;
        let covered = read_context(&put.context, &key)?;
        let object = self.object(&key);
        object.expire(around.now_ms);
        let current = object.answer(evidence);
        if !self.is_new(&options) {
            return Ok(self.object(&key).written(evidence));
        }
        if put.if_absent && !current.siblings.is_empty() {
            self.forget(&options);
            let mut failure = Failure::new(Reason::ConditionFailed, "there is a value");
            failure.current = Some(Box::new(current));
            return Err(failure);
        }
        let object = self.object(&key);
        if object
            .siblings
            .iter()
            .filter(|kept| kept.dot > covered)
            .count()
            >= SIBLINGS_MAX
        {
            self.forget(&options);
            return Err(Failure::new(Reason::TooManySiblings, "too many siblings")
                .with("limit", SIBLINGS_MAX));
        }
        let expires_at_ms = if put.ttl_ms == 0 {
            0
        } else {
            around.now_ms.saturating_add(put.ttl_ms)
        };
        object.replace(covered);
        object.clock += 1;
        object.siblings.push(Kept {
            dot: object.clock,
            value: put.value,
            expires_at_ms,
        });
        Ok(object.written(evidence))
    }

    fn get(
        &mut self,
        get: v1::GetRequest,
        around: Surroundings,
    ) -> Result<v1::GetResponse, Failure> {
        let key = checked(get.key)?;
        let evidence = quorum(get.options.and_then(|options| options.r), around)?;
        let Some(object) = self.objects.get_mut(&place(&key)) else {
            return Ok(v1::GetResponse {
                evidence: Some(evidence),
                ..v1::GetResponse::default()
            });
        };
        object.expire(around.now_ms);
        let mut answer = object.answer(evidence);
        if get.deleted {
            answer.deleted = object.deleted(around.now_ms);
        }
        Ok(answer)
    }

    fn delete(
        &mut self,
        delete: v1::DeleteRequest,
        around: Surroundings,
    ) -> Result<v1::DeleteResponse, Failure> {
        let key = checked(delete.key)?;
        let options = delete.options.unwrap_or_default();
        let evidence = quorum(options.w, around)?;
        if delete.context.is_empty() {
            return Err(Failure::new(Reason::BadContext, "a delete needs a context"));
        }
        let covered = read_context(&delete.context, &key)?;
        let fresh = self.is_new(&options);
        let object = self.object(&key);
        object.expire(around.now_ms);
        if fresh {
            let replaced = object.replace(covered);
            object.clock += 1;
            object.tombstones.push(Tombstone {
                dot: object.clock,
                at_ms: around.now_ms,
                values: match delete.purge {
                    true => Vec::new(),
                    false => replaced,
                },
            });
        }
        let siblings = u32::try_from(object.siblings.len()).expect("the siblings are limited");
        Ok(v1::DeleteResponse {
            siblings,
            evidence: Some(evidence),
        })
    }

    /// Notes a request id; `false` if it was there.
    fn is_new(&mut self, options: &v1::WriteOptions) -> bool {
        options
            .request_id
            .as_ref()
            .is_none_or(|id| self.applied.insert((id.client, id.sequence)))
    }

    fn forget(&mut self, options: &v1::WriteOptions) {
        if let Some(id) = &options.request_id {
            self.applied.remove(&(id.client, id.sequence));
        }
    }

    fn object(&mut self, key: &v1::Key) -> &mut Object {
        self.objects.entry(place(key)).or_insert_with(|| Object {
            key: v1::Key {
                namespace: namespace_of(key).to_owned(),
                key: key.key.clone(),
            },
            clock: 0,
            siblings: Vec::new(),
            tombstones: Vec::new(),
        })
    }

    /// One page of keys that have values.
    pub(super) fn scan(
        &mut self,
        request: &v1::ScanRequest,
        now_ms: u64,
    ) -> Result<v1::ScanResponse, Failure> {
        let limit = if request.limit == 0 {
            PAGE
        } else {
            request.limit as usize
        };
        let start = match request.cursor.split_at_checked(8) {
            Some((token, framed)) => {
                let token = u64::from_be_bytes(token.try_into().expect("eight bytes"));
                Bound::Excluded((token, framed.to_vec()))
            }
            None if request.cursor.is_empty() => Bound::Unbounded,
            None => return Err(Failure::new(Reason::BadRequest, "the cursor is mangled")),
        };
        let mut page = v1::ScanResponse::default();
        for (place, object) in self.objects.range_mut((start, Bound::Unbounded)) {
            object.expire(now_ms);
            let wanted = request.namespace.is_empty() || request.namespace == object.key.namespace;
            if !wanted || object.siblings.is_empty() {
                continue;
            }
            let answer = object.answer(v1::Evidence::default());
            page.entries.push(v1::ScanEntry {
                key: Some(object.key.clone()),
                siblings: if request.keys_only {
                    Vec::new()
                } else {
                    answer.siblings
                },
                context: answer.context,
            });
            if page.entries.len() == limit {
                let mut cursor = place.0.to_be_bytes().to_vec();
                cursor.extend_from_slice(&place.1);
                page.cursor = cursor.into();
                break;
            }
        }
        Ok(page)
    }

    /// How many keys have values.
    pub(super) fn keys(&self) -> usize {
        self.objects
            .values()
            .filter(|object| !object.siblings.is_empty())
            .count()
    }
}

impl Object {
    fn expire(&mut self, now_ms: u64) {
        self.siblings
            .retain(|kept| kept.expires_at_ms == 0 || kept.expires_at_ms > now_ms);
    }

    /// Takes out what a context covers, and gives its values.
    fn replace(&mut self, covered: u64) -> Vec<Bytes> {
        self.tombstones.retain(|tombstone| tombstone.dot > covered);
        let replaced = self.siblings.extract_if(.., |kept| kept.dot <= covered);
        replaced.map(|kept| kept.value).collect()
    }

    /// What can be undeleted.
    fn deleted(&self, now_ms: u64) -> Vec<Bytes> {
        let mut values: Vec<Bytes> = Vec::new();
        let young = |t: &&Tombstone| now_ms.saturating_sub(t.at_ms) < SOFT_DELETE_MS;
        for value in self.tombstones.iter().filter(young).flat_map(|t| &t.values) {
            if !values.contains(value) {
                values.push(value.clone());
            }
        }
        values
    }

    fn context(&self) -> Bytes {
        let mut context = self.clock.to_be_bytes().to_vec();
        context.put_u64(token_of(&self.key).0);
        context.into()
    }

    fn answer(&self, evidence: v1::Evidence) -> v1::GetResponse {
        let sibling = |kept: &Kept| v1::Sibling {
            value: kept.value.clone(),
            expires_at_ms: kept.expires_at_ms,
        };
        v1::GetResponse {
            siblings: self.siblings.iter().map(sibling).collect(),
            context: if self.clock == 0 {
                Bytes::new()
            } else {
                self.context()
            },
            evidence: Some(evidence),
            deleted: Vec::new(),
        }
    }

    fn written(&self, evidence: v1::Evidence) -> v1::PutResponse {
        v1::PutResponse {
            context: if self.siblings.len() == 1 {
                self.context()
            } else {
                Bytes::new()
            },
            siblings: u32::try_from(self.siblings.len()).expect("the siblings are limited"),
            evidence: Some(evidence),
        }
    }
}

fn namespace_of(key: &v1::Key) -> &str {
    if key.namespace.is_empty() {
        DEFAULT_NAMESPACE
    } else {
        &key.namespace
    }
}

fn place(key: &v1::Key) -> Place {
    let namespace = namespace_of(key);
    let mut framed = Vec::new();
    framed.put_u16(u16::try_from(namespace.len()).expect("keys are checked"));
    framed.put_slice(namespace.as_bytes());
    framed.put_slice(&key.key);
    (token_of(key).0, framed)
}

fn checked(key: Option<v1::Key>) -> Result<v1::Key, Failure> {
    let key = key.unwrap_or_default();
    if key.key.is_empty() {
        return Err(Failure::new(Reason::EmptyKey, "the key is empty"));
    }
    if namespace_of(&key).len() + key.key.len() > KEY_BYTES_MAX {
        return Err(
            Failure::new(Reason::TooLarge, "the key is too long").with("limit", KEY_BYTES_MAX)
        );
    }
    Ok(key)
}

/// The counter up to which a context covers; 0 without one.
fn read_context(context: &Bytes, key: &v1::Key) -> Result<u64, Failure> {
    if context.is_empty() {
        return Ok(0);
    }
    let parts = context.split_first_chunk::<8>();
    match parts {
        Some((clock, token)) if token == token_of(key).0.to_be_bytes() => {
            Ok(u64::from_be_bytes(*clock))
        }
        _ => Err(Failure::new(
            Reason::BadContext,
            "the context is not of this key",
        )),
    }
}

fn quorum(asked: Option<u32>, around: Surroundings) -> Result<v1::Evidence, Failure> {
    let need = asked.unwrap_or(around.replicas / 2 + 1);
    if need == 0 {
        return Err(Failure::new(Reason::BadQuorum, "a quorum of 0"));
    }
    let alive = around.alive.min(around.replicas);
    if need > alive {
        let words = format!("{need} owners are needed and {alive} are alive");
        return Err(Failure::new(Reason::QuorumUnavailable, words)
            .with("need", need)
            .with("alive", alive));
    }
    Ok(v1::Evidence {
        owners_asked: around.replicas,
        owners_answered: alive,
        fallbacks_used: 0,
        copies_durable: alive,
    })
}
