//! Calls of several keys.

use std::{collections::BTreeSet, time::Duration};

use futures::StreamExt;
use rand::RngExt;
use ringfort_client::{Entry, Mutation};
use ringfort_ring::token;
use tokio::time::Instant;

use super::{Worker, durability, key_name, ttl};
use crate::history::{Ask, Kind, Reading, WriteId, value_of};

/// The namespace of clients that name none.
const NAMESPACE: &[u8] = b"default";
/// Keys of one page of a scan, at most: few, so that a scan has several.
const PAGE_KEYS_MAX: u32 = 8;

/// One write of a batch, on its way.
struct Sent {
    key: usize,
    id: WriteId,
    /// The read that an `if_absent` makes.
    asked: Option<Reading>,
}

impl Worker {
    /// A few different keys: for one key twice no order is promised.
    fn some_keys(&mut self) -> Vec<usize> {
        let first = self.chance.random_range(0..self.plan.keys);
        let count = self.chance.random_range(1..=self.plan.keys.min(5));
        (0..count).map(|i| (first + i) % self.plan.keys).collect()
    }

    pub(super) async fn batch_write(&mut self, timeout: u64) {
        // What all of them have in common.
        let common = self.ask(Kind::Put, None);
        let (mut mutations, mut sent) = (Vec::new(), Vec::new());
        for key in self.some_keys() {
            let (mutation, one) = self.mutation(key, &common);
            mutations.push(mutation);
            sent.push(one);
        }
        let call = self.client.batch_write(mutations);
        let call = call
            .w(common.w)
            .strict(common.strict)
            .durability(durability(&common));
        let answers = call.timeout(Duration::from_millis(timeout)).await;
        for (Sent { key, id, asked }, answer) in sent.into_iter().zip(answers) {
            match asked {
                Some(asked) => self.settle_if_absent(key, id, asked, answer),
                None => self.settle_put(key, id, answer),
            }
        }
    }

    /// A put, a put if absent, or a delete with a context: without one, the answer does not tell whether there was anything to delete.
    fn mutation(&mut self, key: usize, common: &Ask) -> (Mutation, Sent) {
        let known = self.memory.get(&key).cloned();
        let if_absent = known.is_none() && self.chance.random_range(0..4) == 0;
        let kind = match known.is_some() && self.chance.random_range(0..4) == 0 {
            true => Kind::Delete,
            false => Kind::Put,
        };
        let ask = Ask {
            kind,
            covers: known.as_ref().map(|(_, seen)| seen.clone()),
            ttl_ms: if kind == Kind::Put { self.ttl_ms() } else { 0 },
            if_absent,
            ..common.clone()
        };
        let asked = if_absent.then(|| self.begin_read(self.majority(), ask.strict));
        let id = self.begin_write(key, &ask);
        let mut mutation = match kind {
            Kind::Put => Mutation::put(key_name(key), value_of(id, self.value_bytes())),
            Kind::Delete => Mutation::delete(key_name(key)),
        };
        if let Some((context, _)) = known {
            mutation = mutation.context(context);
        }
        if let Some(ttl) = ttl(&ask) {
            mutation = mutation.ttl(ttl);
        }
        if if_absent {
            mutation = mutation.if_absent();
        }
        (mutation, Sent { key, id, asked })
    }

    pub(super) async fn batch_get(&mut self, timeout: u64) {
        let keys = self.some_keys();
        let (r, strict) = (self.copies(), self.strict());
        let asked = self.begin_read(r, strict);
        let names = keys.iter().map(|key| key_name(*key));
        let call = self.client.batch_get(names).r(r).strict(strict);
        let answers = call.timeout(Duration::from_millis(timeout)).await;
        for (key, answer) in keys.into_iter().zip(answers) {
            match answer {
                Ok(read) => self.saw(asked, key, read.context(), read.siblings()),
                Err(error) => self.failed_read(format_args!("read key {key} of a batch"), &error),
            }
        }
    }

    /// Reads all keys. A key that does not come was not found; but nothing is known of those after the place where a scan broke off.
    /// Returns how long the longest page took, in ms: each has the timeout for itself.
    pub(super) async fn scan(&mut self, timeout: u64) -> u64 {
        let (r, strict) = (self.copies(), self.strict());
        let asked = self.begin_read(r, strict);
        let page = self.chance.random_range(1..=PAGE_KEYS_MAX);
        let scan = self.client.scan().r(r).strict(strict).page_size(page);
        let mut scan = scan.timeout(Duration::from_millis(timeout));
        let mut missing: BTreeSet<usize> = (0..self.plan.keys).collect();
        let mut last = None;
        let mut longest_ms = 0;
        loop {
            let began = Instant::now();
            let next = scan.next().await;
            longest_ms = longest_ms.max(began.elapsed().as_millis() as u64);
            match next {
                Some(Ok(entry)) => {
                    let token = token(NAMESPACE, &entry.key);
                    if last >= Some(token) {
                        self.wrong(format!("a scan goes back to {:?}", entry.key));
                    }
                    last = Some(token);
                    self.scanned(asked, entry, &mut missing);
                }
                Some(Err(error)) => {
                    self.failed_read(format_args!("scan on"), &error);
                    return longest_ms;
                }
                None => break,
            }
        }
        for key in missing {
            self.plan.history.end_read(asked, key, &[]);
        }
        longest_ms
    }

    fn scanned(&mut self, asked: Reading, entry: Entry, missing: &mut BTreeSet<usize>) {
        let key = (0..self.plan.keys).find(|key| key_name(*key).as_bytes() == entry.key);
        let Some(key) = key else {
            return self.wrong(format!("a scan shows a key that nobody wrote: {entry:?}"));
        };
        missing.remove(&key);
        if entry.siblings.is_empty() {
            self.wrong(format!("a scan shows key {key} without a value"));
        }
        self.saw(asked, key, entry.context.as_ref(), &entry.siblings);
    }

    fn wrong(&self, what: String) {
        self.plan.history.records().wrong.push(what);
    }
}
