//! One page of all keys, in token order.
//!
//! Keeps I3 for scans: of each stretch of the ring the copies of R owners that count are merged, and a page goes only as
//! far as all of them were read, so that no acknowledged write is passed over.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use ringfort_proto::{Failure, Reason, peer, v1};
use ringfort_ring::PartitionId;
use ringfort_storage::{Key, version::Object};
use tokio::sync::oneshot;

use super::cursor::Cursor;
use crate::{
    coordinator::{Coordinator, CoordinatorParts, context_of, live_siblings},
    limits::{SCAN_BYTES_MAX, SCAN_KEYS_MAX},
    peer::{replica::key_from_wire, scan::ScanParts},
    view::View,
    wire::decode_object,
};

/// Objects by key: the order of a page.
type Merged = BTreeMap<Key, Object>;

/// Stretches of the ring that one page asks for, at most: one of many empty ones ends early, with a cursor.
const STRETCHES_MAX: usize = 256;

/// While owners are not equally far with a round of reaping, they are asked again, so many times …
const REAPING_TRIES: usize = 10;
/// … after this.
const REAPING_REST: std::time::Duration = std::time::Duration::from_millis(20);

/// Serves scans.
pub(super) struct Scans {
    parts: CoordinatorParts,
    own: ScanParts,
}

/// A run of partitions that have the same owners.
#[derive(Debug, PartialEq, Eq)]
struct Stretch {
    first: PartitionId,
    last: PartitionId,
}

/// One owner's answer: where it is complete to, and what it holds there.
struct Answer {
    /// Complete through this key; `None`: to the end of the stretch.
    through: Option<Key>,
    objects: Vec<(Key, Object)>,
    /// Of the reap generations: only answers of one hash are merged.
    reap_hash: u64,
}

impl Scans {
    pub fn new(coordinator: &Arc<Coordinator>) -> Self {
        let parts = coordinator.parts().clone();
        let own = ScanParts {
            views: parts.views.clone(),
            store: parts.store.clone(),
        };
        Scans { parts, own }
    }

    /// One page.
    ///
    /// # Errors
    /// `BAD_REQUEST` (cursor), `BAD_QUORUM`, `QUORUM_UNAVAILABLE`.
    pub async fn page(&self, request: v1::ScanRequest) -> Result<v1::ScanResponse, Failure> {
        let view = self.parts.views.current();
        let cluster = view.cluster().0;
        let mut cursor = Cursor::decode(&request.cursor, cluster, &request.namespace)?;
        let need = quorum(request.options.as_ref().and_then(|o| o.r), &view)?;
        let limit = match request.limit {
            0 => SCAN_KEYS_MAX,
            limit => limit.min(SCAN_KEYS_MAX),
        };
        let mut page = Page {
            request: &request,
            view: &view,
            wall_ms: self.parts.clock.wall_ms(),
            entries: Vec::new(),
            bytes: 0,
        };
        for _ in 0..STRETCHES_MAX {
            let stretch = stretch_of(
                &view,
                view.layout()
                    .partition_of(ringfort_ring::Token(cursor.token)),
            );
            let room = limit - page.entries.len() as u32;
            let (objects, through) = self.stretch(&view, &stretch, &cursor, need, room).await?;
            objects
                .into_iter()
                .for_each(|(key, object)| page.add(&key, &object));
            cursor = match through {
                Some(key) => Cursor {
                    token: key.token(),
                    after: key.framed().clone(),
                },
                None => match view.layout().token_range(stretch.last).1.0.checked_add(1) {
                    Some(token) => Cursor {
                        token,
                        after: Bytes::new(),
                    },
                    None => {
                        return Ok(v1::ScanResponse {
                            entries: page.entries,
                            cursor: Bytes::new(),
                        });
                    }
                },
            };
            if page.entries.len() as u32 >= limit || page.bytes >= SCAN_BYTES_MAX {
                break;
            }
        }
        Ok(v1::ScanResponse {
            entries: page.entries,
            cursor: cursor.encode(cluster, &request.namespace),
        })
    }

    /// What R owners hold of a stretch from the cursor on, merged; and the key through which that is complete (`None`:
    /// the whole stretch).
    async fn stretch(
        &self,
        view: &Arc<View>,
        stretch: &Stretch,
        cursor: &Cursor,
        need: u32,
        max_keys: u32,
    ) -> Result<(Merged, Option<Key>), Failure> {
        let request = peer::ScanRequest {
            fence: Some(self.fence(view)),
            first_token: cursor.token,
            after: cursor.after.clone(),
            last_token: view.layout().token_range(stretch.last).1.0,
            max_keys,
            max_bytes: SCAN_BYTES_MAX,
        };
        let mut answers = Vec::new();
        for attempt in 0..REAPING_TRIES {
            if attempt > 0 {
                tokio::time::sleep(REAPING_REST).await;
            }
            let asked = self.ask_all(view, stretch, &request, need).await;
            answers = match asked {
                Ok(alike) => return Ok(merge(alike)),
                Err(unlike) => unlike,
            };
            if (answers.len() as u32) < need {
                break;
            }
        }
        if (answers.len() as u32) < need {
            let why = format!(
                "R is {need}, and {} owners answered with a copy that counts",
                answers.len()
            );
            let failure = Failure::new(Reason::QuorumUnavailable, why).with("need", need);
            return Err(failure.with("alive", answers.len()));
        }
        let why = "deleted keys are being reaped, and the owners are not equally far";
        Err(Failure::new(Reason::Overloaded, why).retry_after(REAPING_REST))
    }

    /// R answers of one hash; else all that came.
    async fn ask_all(
        &self,
        view: &Arc<View>,
        stretch: &Stretch,
        request: &peer::ScanRequest,
        need: u32,
    ) -> Result<Vec<Answer>, Vec<Answer>> {
        let owners = view.owners(stretch.first).iter();
        let mut asked: FuturesUnordered<_> = owners
            .map(|&member| self.ask(view, usize::from(member), request.clone()))
            .collect();
        let mut answers: Vec<Answer> = Vec::new();
        while let Some(answer) = asked.next().await {
            let Some(answer) = answer else { continue };
            let hash = answer.reap_hash;
            answers.push(answer);
            let alike = answers.iter().filter(|a| a.reap_hash == hash).count();
            if alike as u32 >= need {
                answers.retain(|answer| answer.reap_hash == hash);
                return Ok(answers);
            }
        }
        Err(answers)
    }

    fn fence(&self, view: &View) -> peer::Fence {
        peer::Fence {
            cluster_id: view.cluster().0,
            epoch: view.epoch().0,
            store_id: view.my_store().0,
            durable_sequence: *self.parts.store.durable().borrow(),
        }
    }

    /// One owner's answer; `None` if it cannot be asked, fails, or does not count.
    async fn ask(
        &self,
        view: &Arc<View>,
        member: usize,
        request: peer::ScanRequest,
    ) -> Option<Answer> {
        let response = if Some(member) == view.me() {
            self.ask_own(request).await
        } else {
            let member = &view.layout().members()[member];
            let mut client = self.parts.links.client(self.parts.links.peer(member))?;
            client
                .scan(request)
                .await
                .map(tonic::Response::into_inner)
                .map_err(|status| status.to_string())
        };
        match response.and_then(answer_of) {
            Ok(answer) => Some(answer),
            Err(why) => {
                tracing::debug!(why, member, "an owner did not answer a scan");
                None
            }
        }
    }

    async fn ask_own(&self, request: peer::ScanRequest) -> Result<peer::ScanResponse, String> {
        let own = self.own.clone();
        let (done, page) = oneshot::channel();
        let job = move || drop(done.send(own.page(&request)));
        self.parts
            .pool
            .submit(Box::new(job))
            .map_err(|full| full.to_string())?;
        page.await
            .map_err(|_| "the engine pool is closed".to_owned())?
            .map_err(|e| e.to_string())
    }
}

/// The page being made.
struct Page<'a> {
    request: &'a v1::ScanRequest,
    view: &'a View,
    wall_ms: u64,
    entries: Vec<v1::ScanEntry>,
    bytes: u64,
}

impl Page<'_> {
    /// Adds an object, if it has something for the reader.
    fn add(&mut self, key: &Key, object: &Object) {
        let namespace = String::from_utf8_lossy(key.namespace());
        if !self.request.namespace.is_empty() && *namespace != self.request.namespace {
            return;
        }
        if object.live_count(self.wall_ms) == 0 {
            return;
        }
        let mut entry = v1::ScanEntry {
            key: Some(v1::Key {
                namespace: namespace.into_owned(),
                key: Bytes::copy_from_slice(key.key()),
            }),
            ..v1::ScanEntry::default()
        };
        if !self.request.keys_only {
            entry.siblings = live_siblings(object, self.wall_ms);
            entry.context = context_of(object, self.view.cluster().0, key);
        }
        self.bytes += prost::Message::encoded_len(&entry) as u64;
        self.entries.push(entry);
    }
}

/// The run of partitions from `first` on that have the same set of owners.
fn stretch_of(view: &View, first: PartitionId) -> Stretch {
    let set = |partition| {
        let mut owners = view.owners(partition).to_vec();
        owners.sort_unstable();
        owners
    };
    let owners = set(first);
    let rest = (first.0 + 1)..view.layout().partitions();
    let same = rest
        .map(PartitionId)
        .take_while(|&partition| set(partition) == owners);
    Stretch {
        first,
        last: same.last().unwrap_or(first),
    }
}

/// Reads an owner's answer; one with partitions that do not count is no answer.
fn answer_of(response: peer::ScanResponse) -> Result<Answer, String> {
    if !response.unsynced.is_empty() {
        return Err("its copy does not hold all that it should".to_owned());
    }
    let objects = response.objects.into_iter().map(|scanned| {
        let key = key_from_wire(&scanned.key).map_err(|reason| reason.as_str().to_owned())?;
        let object = decode_object(scanned.object).map_err(|why| why.to_string())?;
        Ok((key, object))
    });
    let objects = objects.collect::<Result<Vec<_>, String>>()?;
    let through = (!response.next.is_empty()).then(|| key_from_wire(&response.next));
    let through = through
        .transpose()
        .map_err(|reason| reason.as_str().to_owned())?;
    Ok(Answer {
        through,
        objects,
        reap_hash: response.reap_hash,
    })
}

/// Merges answers as far as all of them are complete.
fn merge(answers: Vec<Answer>) -> (Merged, Option<Key>) {
    let through = answers
        .iter()
        .filter_map(|answer| answer.through.clone())
        .min();
    let mut merged = Merged::new();
    for (key, object) in answers.into_iter().flat_map(|answer| answer.objects) {
        if through.as_ref().is_some_and(|through| key > *through) {
            continue;
        }
        let held = merged.remove(&key).unwrap_or_else(Object::empty);
        merged.insert(key, held.merge(object));
    }
    (merged, through)
}

fn quorum(asked: Option<u32>, view: &View) -> Result<u32, Failure> {
    crate::coordinator::quorum("r", asked, view.layout())
}
