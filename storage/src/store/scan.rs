//! Reading keys in order. Keeps I2: a page holds every key of its range that was there when the page began, whether in the
//! table, in the engine, or on its way between.

use std::sync::Arc;

use bytes::Bytes;

use super::entry::Slot;
use super::merging::fold;
use super::rowio::{self, Stored};
use super::table::Table;
use super::{Inner, Store};
use crate::codec::rows::{self, RowKind};
use crate::engine::{Engine, EngineError, Row};
use crate::key::Key;
use crate::record::Record;

/// Most keys on one page.
pub const SCAN_KEYS_MAX: usize = 16_384;

/// One page of a scan.
#[derive(Debug, Clone, Default)]
pub struct ScanPage {
    /// Keys with what is stored for them, tombstones included, in key order.
    pub records: Vec<(Key, Arc<Record>)>,
    /// Keys of the range whose record is damaged here.
    pub quarantined: Vec<Key>,
    /// The key to go on after; `None`: the range is through. A page may be short, or empty, and yet not the last.
    pub next: Option<Key>,
}

/// What is still to be read of a range, within one shard.
struct Stretch {
    first_token: u64,
    /// The key that it begins after, if not with `first_token`.
    after: Option<Key>,
    last_token: u64,
    keys_max: usize,
}

/// What the table held of a stretch when its page began.
struct Snapshot {
    /// In key order.
    entries: Vec<(Key, Slot)>,
    /// The last of `entries`, if the table has more after it.
    end: Option<Key>,
}

/// A page that is being filled.
struct Filling {
    page: ScanPage,
    /// The last key that was dealt with.
    last: Option<Key>,
    keys_left: usize,
    bytes_left: usize,
}

impl Store {
    /// Reads a page of the keys with `first_token ≤ token ≤ last_token`; with `after` (framed key bytes) of those after
    /// (`first_token`, `after`). At most `max_keys` keys, and no more once they weigh `max_bytes` in memory. Absent tombstones
    /// are not among them.
    ///
    /// Blocks: to be run on the engine pool. A key changed while the page is read may be seen old or new.
    ///
    /// # Errors
    /// [`EngineError`]: the engine is not to be used again, the process has to end.
    pub fn scan(
        &self,
        first_token: u64,
        after: Option<&[u8]>,
        last_token: u64,
        max_keys: usize,
        max_bytes: usize,
    ) -> Result<ScanPage, EngineError> {
        let mut page = self.scan_all(first_token, after, last_token, max_keys, max_bytes)?;
        page.records
            .retain(|(key, record)| !self.is_absent(key, record.leaf()));
        Ok(page)
    }

    /// The same with those that are absent.
    pub(super) fn scan_all(
        &self,
        first_token: u64,
        after: Option<&[u8]>,
        last_token: u64,
        max_keys: usize,
        max_bytes: usize,
    ) -> Result<ScanPage, EngineError> {
        // Bytes that are no key sort as bytes all the same, but no client gets them: such a page starts at the token.
        let after = after
            .and_then(|framed| Key::from_framed(first_token, Bytes::copy_from_slice(framed)).ok());
        let result = self.inner.scan(
            first_token,
            after,
            last_token,
            max_keys.clamp(1, SCAN_KEYS_MAX),
            max_bytes,
        );
        result.inspect_err(|error| self.inner.engine_failed(error))
    }
}

impl Inner {
    /// Shard after shard, since each shard's table entries are taken on their own.
    fn scan(
        &self,
        first_token: u64,
        mut after: Option<Key>,
        last_token: u64,
        max_keys: usize,
        max_bytes: usize,
    ) -> Result<ScanPage, EngineError> {
        let mut filling = Filling {
            page: ScanPage::default(),
            last: None,
            keys_left: max_keys,
            bytes_left: max_bytes.max(1),
        };
        if first_token > last_token {
            return Ok(filling.page);
        }
        for shard in Table::shard_of(first_token)..=Table::shard_of(last_token) {
            let shard_first = (shard as u64) << 56;
            let stretch = Stretch {
                first_token: shard_first.max(first_token),
                after: after.take(),
                last_token: (shard_first | (u64::MAX >> 8)).min(last_token),
                keys_max: filling.keys_left,
            };
            let through = self.scan_stretch(&stretch, &mut filling)?;
            if !through || filling.is_full() {
                filling.page.next = filling.last;
                break;
            }
        }
        Ok(filling.page)
    }

    /// Merges the table's entries with the engine's rows. The entries are taken before the engine is read: a key that the drain
    /// moves meanwhile is in the one, or in the other, or in both. False: the stretch goes on after the last key.
    fn scan_stretch(&self, stretch: &Stretch, filling: &mut Filling) -> Result<bool, EngineError> {
        let snapshot = self.snapshot(stretch);
        let mut entries = snapshot.entries.into_iter().peekable();
        let (first_row, end_row) = stretch.rows();
        let mut heads = self
            .engine
            .range(&first_row, Some(&end_row))
            .filter_map(|row| row.map(head_of).transpose())
            .filter(|head| {
                !head
                    .as_ref()
                    .is_ok_and(|(key, _)| Some(key) == stretch.after.as_ref())
            })
            .peekable();
        while !filling.is_full() {
            let stored = match heads.peek() {
                Some(Err(_)) => return Err(heads.next().expect("peeked").expect_err("peeked")),
                Some(Ok((key, _))) => Some(key.clone()),
                None => None,
            };
            let Some(key) = stored
                .iter()
                .chain(entries.peek().map(|(key, _)| key))
                .min()
                .cloned()
            else {
                return Ok(snapshot.end.is_none());
            };
            if snapshot.end.as_ref().is_some_and(|end| key > *end) {
                return Ok(false);
            }
            let head = heads.next_if(|head| head.as_ref().is_ok_and(|(stored, _)| *stored == key));
            let head = head.transpose()?.map(|(_, head)| head);
            let slot = entries
                .next_if(|(entry, _)| *entry == key)
                .map(|(_, slot)| slot);
            self.scan_key(key, slot, head, filling)?;
        }
        Ok(false)
    }

    /// Puts one key onto the page.
    fn scan_key(
        &self,
        key: Key,
        slot: Option<Slot>,
        head: Option<Bytes>,
        filling: &mut Filling,
    ) -> Result<(), EngineError> {
        let record = match slot {
            Some(Slot::Whole(record)) => Some(record),
            _ if self.is_quarantined(&key) => {
                filling.quarantined(key);
                return Ok(());
            }
            slot => {
                let under = match head {
                    Some(head) => self.scan_stored(&key, head)?,
                    None => Stored::Nothing,
                };
                let under = match under {
                    Stored::Record(record) => Some(Arc::new(record)),
                    Stored::Nothing => None,
                    Stored::Damaged => {
                        self.quarantine(&key);
                        filling.quarantined(key);
                        return Ok(());
                    }
                };
                match slot {
                    Some(operand) => Some(fold(&key, under.as_ref(), operand.record())),
                    None => under,
                }
            }
        };
        filling.push(key, record);
        Ok(())
    }

    fn scan_stored(&self, key: &Key, head: Bytes) -> Result<Stored, EngineError> {
        match rowio::decode(&self.engine, key, head)? {
            Some(record) => Ok(Stored::Record(record)),
            // Damaged, or replaced by the drain since the iterator saw it: reading again tells.
            None => rowio::read(&self.engine, key),
        }
    }

    fn snapshot(&self, stretch: &Stretch) -> Snapshot {
        let shard = self.table.lock(Table::shard_of(stretch.first_token));
        let mut entries: Vec<_> = shard
            .iter()
            .filter(|(key, _)| stretch.contains(key))
            .collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        let more = entries.len() > stretch.keys_max;
        entries.truncate(stretch.keys_max);
        let entries: Vec<_> = entries
            .into_iter()
            .map(|(key, entry)| (key.clone(), entry.slot.clone()))
            .collect();
        let end = entries.last().filter(|_| more).map(|(key, _)| key.clone());
        Snapshot { entries, end }
    }
}

impl Stretch {
    fn contains(&self, key: &Key) -> bool {
        let begun = self
            .after
            .as_ref()
            .map_or(key.token() >= self.first_token, |after| key > after);
        begun && key.token() <= self.last_token
    }

    /// The range of rows, half open.
    fn rows(&self) -> (Vec<u8>, Vec<u8>) {
        let first = match &self.after {
            Some(after) => rows::head_key(after),
            None => self.first_token.to_be_bytes().to_vec(),
        };
        (first, rows::end_after(self.last_token))
    }
}

impl Filling {
    fn is_full(&self) -> bool {
        self.keys_left == 0 || self.bytes_left == 0
    }

    fn push(&mut self, key: Key, record: Option<Arc<Record>>) {
        self.last = Some(key.clone());
        if let Some(record) = record.filter(|record| !record.object().is_empty()) {
            self.keys_left -= 1;
            self.bytes_left = self.bytes_left.saturating_sub(record.weight());
            self.page.records.push((key, record));
        }
    }

    fn quarantined(&mut self, key: Key) {
        self.last = Some(key.clone());
        self.keys_left -= 1;
        self.page.quarantined.push(key);
    }
}

/// The key of a head row, with its value; `None` for all other rows.
fn head_of((row, value): Row) -> Option<(Key, Bytes)> {
    match rows::parse_key(&row) {
        Some((key, RowKind::Head)) => Some((key, value)),
        _ => None,
    }
}
