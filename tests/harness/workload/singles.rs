//! Calls of one key.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::RngExt;
use ringfort_client::{Change, Current};

use super::{Worker, durability, key_name, outcome_of, ttl};
use crate::history::{Ask, Kind, Outcome, WriteId, value_of};

impl Worker {
    pub(super) async fn put(&mut self, key: usize, timeout: u64) {
        let known = self.memory.get(&key).cloned();
        let with = known.filter(|_| self.chance.random_range(0..10) < 7);
        let ask = self.ask(Kind::Put, with.as_ref().map(|(_, seen)| seen.clone()));
        let id = self.begin_write(key, &ask);
        let value = value_of(id, self.value_bytes());
        let mut call = self.client.put(key_name(key), value);
        call = call
            .w(ask.w)
            .strict(ask.strict)
            .durability(durability(&ask));
        if let Some(ttl) = ttl(&ask) {
            call = call.ttl(ttl);
        }
        if let Some((context, _)) = with {
            call = call.context(context);
        }
        let answer = call.timeout(Duration::from_millis(timeout)).await;
        self.settle_put(key, id, answer);
    }

    pub(super) async fn put_if_absent(&mut self, key: usize, timeout: u64) {
        let ask = Ask {
            if_absent: true,
            ..self.ask(Kind::Put, None)
        };
        let asked = self.begin_read(self.majority(), ask.strict);
        let id = self.begin_write(key, &ask);
        let value = value_of(id, self.value_bytes());
        let mut call = self.client.put(key_name(key), value).if_absent();
        call = call
            .w(ask.w)
            .strict(ask.strict)
            .durability(durability(&ask));
        if let Some(ttl) = ttl(&ask) {
            call = call.ttl(ttl);
        }
        let answer = call.timeout(Duration::from_millis(timeout)).await;
        self.settle_if_absent(key, id, asked, answer);
    }

    pub(super) async fn get(&mut self, key: usize, timeout: u64) {
        let (r, strict) = (self.copies(), self.strict());
        let asked = self.begin_read(r, strict);
        let call = self.client.get(key_name(key)).r(r).strict(strict);
        match call.timeout(Duration::from_millis(timeout)).await {
            Ok(read) => self.saw(asked, key, read.context(), read.siblings()),
            Err(error) => self.failed_read(format_args!("read key {key}"), &error),
        }
    }

    pub(super) async fn delete(&mut self, key: usize, timeout: u64) {
        let known = self.memory.remove(&key);
        let with = known.filter(|_| self.chance.random_range(0..2) == 0);
        let ask = self.ask(Kind::Delete, with.as_ref().map(|(_, seen)| seen.clone()));
        // Without a context it reads first, a majority.
        let asked = self.begin_read(self.majority(), ask.strict);
        let id = self.begin_write(key, &ask);
        let mut call = self.client.delete(key_name(key));
        call = call
            .w(ask.w)
            .strict(ask.strict)
            .durability(durability(&ask));
        if let Some((context, _)) = with {
            call = call.context(context);
        }
        match call.timeout(Duration::from_millis(timeout)).await {
            // Whoever deleted before may not have reached as many copies as this call asked for.
            Ok(deleted) if deleted.found == Some(false) => {
                let nothing = Outcome::Nothing("it found nothing to delete".to_owned());
                self.plan.history.end_write(id, nothing);
                self.plan.history.end_read(asked, key, &[]);
            }
            answer => self.settle(id, answer.err()),
        }
    }

    pub(super) async fn modify(&mut self, key: usize, timeout: u64) {
        let tried: Arc<Mutex<Vec<WriteId>>> = Arc::default();
        let (history, number, bytes) = (self.plan.history.clone(), self.number, self.value_bytes());
        let majority = self.majority();
        let delete = self.chance.random_range(0..10) == 0;
        let ask = Ask {
            w: majority,
            // This call has no say in how durable its writes are.
            buffered: false,
            ..self.ask(Kind::Put, None)
        };
        let (strict, lifetime) = (ask.strict, ttl(&ask));
        let answer = {
            let tried = tried.clone();
            let mut asked = self.begin_read(majority, strict);
            let change = move |current: &Current<'_>| {
                let seen: BTreeSet<WriteId> = history.end_read(asked, key, current).seen;
                asked = history.begin_read(number, majority, strict);
                let kind = match delete && !seen.is_empty() {
                    true => Kind::Delete,
                    false => Kind::Put,
                };
                let ask = Ask {
                    kind,
                    covers: Some(seen),
                    ttl_ms: if kind == Kind::Put { ask.ttl_ms } else { 0 },
                    ..ask.clone()
                };
                let id = history.begin_write(number, key, ask);
                tried.lock().expect("nobody panics with it").push(id);
                match kind {
                    Kind::Put => Change::Put(value_of(id, bytes)),
                    Kind::Delete => Change::Delete,
                }
            };
            let mut call = self.client.read_modify_write(key_name(key), change);
            if let Some(lifetime) = lifetime {
                call = call.ttl(lifetime);
            }
            let timeout = Duration::from_millis(timeout);
            call.timeout(timeout).strict(strict).await
        };
        self.memory.remove(&key);
        if let Err(error) = &answer {
            self.count(error);
        }
        let rounds = tried.lock().expect("nobody panics with it").clone();
        // With one round, the answer is the answer to its write; with more, only that all rounds were tried is known.
        for &id in &rounds {
            let outcome = match &answer {
                Ok(_) if rounds.len() == 1 => Outcome::Acked,
                Ok(_) => Outcome::Ambiguous("one of several rounds".to_owned()),
                Err(error) if rounds.len() == 1 => outcome_of(error),
                Err(error) => Outcome::Ambiguous(error.to_string()),
            };
            self.plan.history.end_write(id, outcome);
        }
    }
}
