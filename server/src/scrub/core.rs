//! When a scrub reads the next page, and where: a function of what was read before and of the time that is handed in.
//!
//! *Leaves out on purpose:* clock, chance, disk. The position is in memory alone: a start reads everything through anyway.

use std::time::Duration;

use bytes::Bytes;
use ringfort_storage::store::Scrubbed;
use tokio::time::Instant;

use crate::{giveway::Beside, mover::pace::Pace};

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Read the page after this row; `None`: from the first row on.
    Page(Option<Bytes>),
    /// Nothing before this time has passed.
    Wait(Duration),
}

/// How far it is, since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Passes that are through.
    pub passes: u64,
    /// Whether one is under way.
    pub is_running: bool,
    /// How far that one is.
    pub per_mille: u32,
    /// Records verified.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Records that failed.
    pub damaged: u64,
    /// When the last pass ended.
    pub last: Option<Instant>,
}

/// The schedule of one node's scrub.
#[derive(Debug)]
pub struct Schedule {
    interval: Duration,
    pace: Pace,
    figures: Figures,
    /// The row that was read last; `None` while a pass has read none.
    after: Option<Bytes>,
    /// When the next pass, or the next page, may begin.
    due: Instant,
}

impl Schedule {
    /// The first pass begins an interval after the start, which has just read everything, give or take `jitter` of 1,000 tenths of an
    /// interval.
    pub fn new(now: Instant, bytes_per_s: u64, interval: Duration, jitter: u64) -> Schedule {
        let spread = (interval / 10).mul_f64((jitter % 1_000) as f64 / 1_000.0);
        let interval = interval - spread;
        Schedule {
            interval,
            pace: Pace::new(bytes_per_s),
            figures: Figures::default(),
            after: None,
            due: now + interval,
        }
    }

    /// Begins a pass now, from the first row, whatever goes on; gives its number.
    pub fn ask(&mut self, now: Instant) -> u64 {
        self.after = None;
        self.figures.is_running = true;
        self.figures.per_mille = 0;
        self.due = now;
        self.figures.passes + 1
    }

    /// What to do next.
    pub fn next(&mut self, now: Instant) -> Next {
        if now < self.due {
            return Next::Wait(self.due - now);
        }
        self.figures.is_running = true;
        Next::Page(self.after.clone())
    }

    /// A page that began after the row `after` was read, and took `worked`, and what else goes on.
    pub fn read(
        &mut self,
        now: Instant,
        after: &Option<Bytes>,
        page: Scrubbed,
        worked: Duration,
        beside: Beside,
    ) {
        let figures = &mut self.figures;
        figures.records += page.records;
        figures.bytes += page.bytes;
        figures.damaged += page.quarantined + page.rewritten;
        let rest = self.pace.rest(now, page.bytes, worked, beside);
        if *after != self.after {
            // Another pass was asked for meanwhile.
            self.due = self.due.max(now + rest);
            return;
        }
        self.after = page.next;
        match &self.after {
            Some(row) => {
                figures.per_mille = per_mille(row);
                self.due = now + rest;
            }
            None => {
                figures.passes += 1;
                figures.is_running = false;
                figures.per_mille = 0;
                figures.last = Some(now);
                self.due = now + self.interval;
            }
        }
    }

    /// How far it is.
    pub fn figures(&self) -> Figures {
        self.figures
    }
}

/// How far a row is through all tokens.
fn per_mille(row: &[u8]) -> u32 {
    let token = row.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b));
    ((u128::from(token) * 1_000) >> 64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn page(next: Option<u64>) -> Scrubbed {
        Scrubbed {
            records: 10,
            bytes: 1_000,
            quarantined: 1,
            next: next.map(|token| Bytes::copy_from_slice(&token.to_be_bytes())),
            ..Scrubbed::default()
        }
    }

    #[tokio::test]
    async fn passes_come_an_interval_after_each_other_and_pages_at_the_rate() {
        let began = Instant::now();
        let mut schedule = Schedule::new(began, 1_000, 100 * SECOND, 0);
        assert_eq!(schedule.next(began), Next::Wait(100 * SECOND));
        let mut now = began + 100 * SECOND;
        assert_eq!(schedule.next(now), Next::Page(None));
        schedule.read(
            now,
            &None,
            page(Some(1 << 63)),
            SECOND / 100,
            Beside::Nobody,
        );
        assert_eq!(schedule.figures().per_mille, 500);
        let Next::Wait(rest) = schedule.next(now) else {
            panic!("1,000 bytes a second");
        };
        assert!(rest >= SECOND * 9 / 10, "{rest:?}");
        now += rest;
        let Next::Page(after) = schedule.next(now) else {
            panic!("it is due");
        };
        assert_eq!(after.as_deref(), Some(&(1_u64 << 63).to_be_bytes()[..]));
        schedule.read(now, &after, page(None), SECOND / 100, Beside::Nobody);
        let figures = schedule.figures();
        let facts = (figures.passes, figures.records, figures.damaged);
        assert_eq!((facts, figures.is_running), ((1, 20, 2), false));
        assert_eq!(figures.last, Some(now));
        assert_eq!(schedule.next(now), Next::Wait(100 * SECOND));
    }

    #[tokio::test]
    async fn one_that_is_asked_for_begins_anew_at_once() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, 1 << 30, 100 * SECOND, 0);
        assert_eq!(schedule.ask(now), 1);
        assert_eq!(schedule.next(now), Next::Page(None));
        schedule.read(
            now,
            &None,
            page(Some(1 << 62)),
            SECOND / 100,
            Beside::Nobody,
        );
        let later = now + SECOND;
        let Next::Page(after) = schedule.next(later) else {
            panic!("it is due");
        };
        // Asked for while the last page of the pass before is read: that page ends no pass.
        assert_eq!(schedule.ask(later), 1);
        schedule.read(later, &after, page(None), SECOND / 100, Beside::Nobody);
        assert_eq!(schedule.figures().passes, 0);
        assert_eq!(schedule.next(later + SECOND), Next::Page(None));
    }

    #[tokio::test]
    async fn nodes_do_not_begin_together() {
        let now = Instant::now();
        let waits = [0, 1, 500, 999, 123_999].map(|jitter| {
            match Schedule::new(now, 1, 100 * SECOND, jitter).next(now) {
                Next::Wait(wait) => wait,
                Next::Page(_) => panic!("nothing is due"),
            }
        });
        assert!(
            waits
                .iter()
                .all(|w| (90 * SECOND..=100 * SECOND).contains(w))
        );
        assert!(waits[0] > waits[1] && waits[1] > waits[2] && waits[2] > waits[3]);
        assert_eq!(waits[3], waits[4]);
    }
}
