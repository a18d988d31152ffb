//! What clients feel at this node: how long their operations take, and how long those must have waited that this node had no time
//! to look at. Against what they felt when it was calm, that tells who works in the background when to keep off.
//!
//! The calm is the least of the last minutes, as a transport that yields to others takes the least delay for the empty path
//! (LEDBAT, RFC 6817). Pure: times are handed in.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::limits::TICK;

/// What is felt is worked out so often: some hundred operations of a busy node, and soon enough to keep off.
const WINDOW: Duration = Duration::from_millis(200);
/// One window's part of what is felt: a single slow one is not suffering yet.
const SMOOTHED_OVER: u64 = 4;
/// The calm is the least of so many last minutes: a load that stays is the new calm by then.
const CALM_MINUTES: u64 = 10;
/// Clients suffer when they feel so many times the calm, and so much more on top, in microseconds: what is next to nothing may
/// double.
const SUFFERS_TIMES: u64 = 2;
/// See [`SUFFERS_TIMES`].
const SUFFERS_OVER_US: u64 = 3_000;

/// See the module.
#[derive(Debug)]
pub struct Felt {
    origin: Instant,
    /// Of the window: when it began, what was answered in it, and after how long in all.
    began: Instant,
    answered: u64,
    latency_us: u64,
    /// When this node last looked, and the squares of how late it was, in microseconds.
    looked: Instant,
    late_squares: u64,
    /// What is felt, in microseconds.
    felt_us: Option<u64>,
    /// By minute, the least that was felt in it. At most [`CALM_MINUTES`].
    calm: VecDeque<(u64, u64)>,
}

impl Felt {
    /// Nothing is felt yet.
    pub fn new(now: Instant) -> Felt {
        Felt {
            origin: now,
            began: now,
            answered: 0,
            latency_us: 0,
            looked: now,
            late_squares: 0,
            felt_us: None,
            calm: VecDeque::new(),
        }
    }

    /// An operation was answered, after so long.
    pub fn answered(&mut self, latency: Duration) {
        self.answered += 1;
        self.latency_us = self.latency_us.saturating_add(micros(latency));
    }

    /// This node looks at what is due, as it does every [`TICK`] unless it has no time to; `pending` operations are in work.
    pub fn tick(&mut self, now: Instant, pending: usize) {
        let late = micros(
            now.saturating_duration_since(self.looked)
                .saturating_sub(TICK),
        );
        self.late_squares = self.late_squares.saturating_add(late.saturating_mul(late));
        self.looked = now;
        let window = now.saturating_duration_since(self.began);
        if window >= WINDOW {
            self.end_window(now, micros(window), pending);
        }
    }

    fn end_window(&mut self, now: Instant, window_us: u64, pending: usize) {
        let latency = match (self.answered, pending) {
            (0, 0) => None,
            // Nobody was answered: each that waits has felt the whole window.
            (0, _) => Some(window_us),
            (answered, _) => Some(self.latency_us / answered),
        };
        // What comes in at any time waits for as much of a gap as is left of it: the longer a gap, the more meet it.
        let late = self.late_squares / (2 * window_us);
        (
            self.began,
            self.answered,
            self.latency_us,
            self.late_squares,
        ) = (now, 0, 0, 0);
        let Some(latency) = latency else {
            self.felt_us = None;
            return;
        };
        let now_us = latency + late;
        let felt = self.felt_us.map_or(now_us, |felt| {
            (felt * (SMOOTHED_OVER - 1) + now_us) / SMOOTHED_OVER
        });
        self.felt_us = Some(felt);
        let minute = now.saturating_duration_since(self.origin).as_secs() / 60;
        self.calm.retain(|(then, _)| then + CALM_MINUTES > minute);
        match self.calm.back_mut() {
            Some((then, least)) if *then == minute => *least = felt.min(*least),
            _ => self.calm.push_back((minute, felt)),
        }
    }

    /// Whether there are clients at all: some were answered in this window or the last one, or waited. That none waits at one moment
    /// says little, since the next may come at any time.
    pub fn is_anybody(&self) -> bool {
        self.answered > 0 || self.felt_us.is_some()
    }

    /// Whether clients feel a good deal more than when it was calm.
    pub fn suffers(&self) -> bool {
        let calm = self.calm.iter().map(|(_, least)| *least).min();
        match (self.felt_us, calm) {
            (Some(felt), Some(calm)) => felt > SUFFERS_TIMES * calm + SUFFERS_OVER_US,
            _ => false,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Run {
        felt: Felt,
        now: Instant,
    }

    impl Run {
        fn new() -> Run {
            let now = Instant::now();
            let felt = Felt::new(now);
            Run { felt, now }
        }

        /// Windows in each of which one operation was answered after so long, while the node looked every `gap`. Gives in how
        /// many of them clients suffered.
        fn windows(&mut self, count: u32, latency: Option<Duration>, gap: Duration) -> u32 {
            let mut suffered = 0;
            for _ in 0..count {
                latency.into_iter().for_each(|l| self.felt.answered(l));
                let end = self.now + WINDOW;
                while self.now < end {
                    self.now += gap;
                    self.felt.tick(self.now, usize::from(latency.is_some()));
                }
                suffered += u32::from(self.felt.suffers());
            }
            suffered
        }
    }

    #[tokio::test]
    async fn twice_the_calm_and_a_little_is_suffered() {
        let mut run = Run::new();
        assert_eq!(run.windows(100, Some(10 * MS), TICK), 0);
        assert_eq!(run.windows(100, Some(22 * MS), TICK), 0);
        // 23 ms are passed in the first window of 60 ms.
        assert_eq!(run.windows(100, Some(60 * MS), TICK), 100);
        // From 60 ms back to below 23 ms by quarters of what is left to 10 ms.
        assert_eq!(run.windows(100, Some(10 * MS), TICK), 4);
    }

    #[tokio::test]
    async fn what_stays_is_the_calm_after_its_minutes() {
        let mut run = Run::new();
        assert_eq!(run.windows(1, Some(10 * MS), TICK), 0);
        let windows = run.windows(5 * 60 * 20, Some(60 * MS), TICK);
        let minute = 5 * 60;
        assert!(windows >= 9 * minute && windows <= 10 * minute, "{windows}");
        assert!(run.felt.calm.len() <= CALM_MINUTES as usize);
    }

    #[tokio::test]
    async fn a_node_without_time_makes_its_clients_wait() {
        let mut run = Run::new();
        assert_eq!(run.windows(10, Some(MS), TICK), 0);
        // Whoever comes in waits for 25 ms on average.
        assert_eq!(run.windows(10, Some(MS), 50 * MS + TICK), 10);
    }

    #[tokio::test]
    async fn who_is_not_answered_suffers_and_who_is_not_there_does_not() {
        let mut run = Run::new();
        run.windows(10, Some(MS), TICK);
        let tick = |run: &mut Run, pending| {
            run.now += WINDOW;
            run.felt.looked = run.now - TICK;
            run.felt.tick(run.now, pending);
            run.felt.suffers()
        };
        assert!(tick(&mut run, 1));
        assert!(!tick(&mut run, 0));
        assert_eq!(run.windows(100, None, 50 * MS), 0);
    }
}
