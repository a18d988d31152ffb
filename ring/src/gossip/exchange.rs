//! Anti-entropy of two nodes' knowledge, in three messages: digest, answer, news.
//!
//! *Invariant:* counter and content of a heartbeat go forward only, each by itself: the counter with any message that has a later
//! one, the content only together with all entries up to it. So a digest alone spreads heartbeats, and entries travel once.

use super::{
    Change, Gossip, Received,
    entry::{Age, Beat, Entry, Topic},
    message::{BadMessage, ENTRIES_MAX, Message, NEWS_BYTES_MAX, NODES_MAX, News},
    node::{Node, Standing},
    rumour::Rumour,
};
use crate::id::StoreId;

impl Gossip {
    /// Takes up a message of `from`.
    ///
    /// # Errors
    /// [`BadMessage`]: no sound node sends that. Nothing was changed.
    pub fn receive(
        &mut self,
        now_ms: u64,
        from: StoreId,
        message: Message,
    ) -> Result<Received, BadMessage> {
        message.check()?;
        self.wake(now_ms);
        let mut changes = Vec::new();
        let mut mine = false;
        let reply = match message {
            Message::Digest(beats) => {
                // Before the answer, so that it carries what is suspected.
                mine = self.suspect_again(now_ms);
                Some(self.answer(now_ms, &beats, &mut changes))
            }
            Message::Answer { beats, news, want } => {
                for beat in &beats {
                    self.heartbeat(now_ms, beat, &mut changes);
                }
                self.take_up(now_ms, news, &mut changes);
                let news = self.wanted(&want);
                (!news.is_empty()).then_some(Message::News(news))
            }
            Message::News(news) => {
                self.take_up(now_ms, news, &mut changes);
                self.refute(&changes)
            }
        };
        self.hear_from(from, &mut changes);
        let left = self.see_off(&mut changes);
        let mut rumour = Rumour::default();
        rumour.tellers.extend(left);
        let observers: Vec<StoreId> = changes.iter().filter_map(Change::opinions_of).collect();
        self.hear_opinions(observers.iter().copied(), &mut rumour);
        if !rumour.tellers.is_empty() {
            // Perhaps this node is the second observer.
            mine |= self.suspect(now_ms);
        }
        if mine {
            self.hear_opinions([self.me], &mut rumour);
        }
        // Who has just risen may be down all the same: by opinions on a heartbeat that came here after them.
        let is_up = |change: &Change| matches!(change, Change::Up(_));
        if mine || !observers.is_empty() || changes.iter().any(is_up) {
            self.judge(&mut changes);
        }
        Ok(Received {
            reply,
            hurry: self.pass_on(rumour),
            changes,
        })
    }

    /// Answers a digest: what is later here, and what is wanted.
    fn answer(&mut self, now_ms: u64, theirs: &[Beat], changes: &mut Vec<Change>) -> Message {
        let mut answer = Answer::default();
        let mut mine = 0;
        for beat in theirs {
            while self
                .nodes
                .get(mine)
                .is_some_and(|n| n.beat.store < beat.store)
            {
                answer.tell(&self.nodes[mine], 0, now_ms);
                mine += 1;
            }
            if self
                .nodes
                .get(mine)
                .is_some_and(|n| n.beat.store == beat.store)
            {
                self.compare(now_ms, mine, beat, &mut answer, changes);
                mine += 1;
            } else {
                answer.want.push(Beat::unheard(beat.store));
            }
        }
        for node in &self.nodes[mine..] {
            answer.tell(node, 0, now_ms);
        }
        let Answer {
            beats, news, want, ..
        } = answer;
        Message::Answer { beats, news, want }
    }

    /// Both know the node at `index`: takes the later heartbeat, and notes what to tell and what to want.
    fn compare(
        &mut self,
        now_ms: u64,
        index: usize,
        theirs: &Beat,
        answer: &mut Answer,
        changes: &mut Vec<Change>,
    ) {
        if theirs.store == self.me {
            self.renew(theirs, changes);
        }
        let mine = self.nodes[index].beat;
        if theirs.generation > mine.generation {
            answer.want.push(mine);
            return;
        }
        if theirs.generation < mine.generation {
            answer.tell(&self.nodes[index], 0, now_ms);
            return;
        }
        if theirs.counter > mine.counter {
            self.rise(now_ms, index, theirs.age(), changes);
        }
        if theirs.content > mine.content {
            answer.want.push(mine);
        } else if theirs.content < mine.content {
            answer.tell(&self.nodes[index], theirs.content, now_ms);
        }
        if theirs.counter < mine.counter
            && theirs.content >= mine.content
            && self.nodes[index].is_told(now_ms)
        {
            answer.beats.push(mine);
        }
    }

    /// A heartbeat that came without entries.
    fn heartbeat(&mut self, now_ms: u64, beat: &Beat, changes: &mut Vec<Change>) {
        if beat.store == self.me {
            self.renew(beat, changes);
        } else if let Ok(index) = self.find(beat.store) {
            let known = self.nodes[index].beat;
            if beat.generation == known.generation && beat.counter > known.counter {
                self.rise(now_ms, index, beat.age(), changes);
            }
        }
    }

    fn take_up(&mut self, now_ms: u64, news: Vec<News>, changes: &mut Vec<Change>) {
        for news in news {
            if news.beat.store == self.me {
                self.renew(&news.beat, changes);
                continue;
            }
            match self.find(news.beat.store) {
                Ok(index) => self.learn(now_ms, index, news, changes),
                Err(place) if news.since == 0 && self.nodes.len() < NODES_MAX => {
                    let node = Node::new(Beat::unheard(news.beat.store), now_ms);
                    self.nodes.insert(place, node);
                    self.learn(now_ms, place, news, changes);
                }
                Err(_) => {}
            }
        }
    }

    /// Takes up what is new of the node at `index`.
    fn learn(&mut self, now_ms: u64, index: usize, news: News, changes: &mut Vec<Change>) {
        let node = &mut self.nodes[index];
        let (known, store) = (node.beat, news.beat.store);
        let later_life = news.beat.generation > known.generation;
        if later_life && news.since == 0 {
            node.entries.clear();
            node.beat.content = 0;
        } else if news.beat.generation != known.generation {
            return;
        }
        if news.beat.content > node.beat.content {
            // Of a rumour the entry counts, although others before it are missing here: they come with a later exchange.
            if news.since <= node.beat.content {
                node.beat.content = news.beat.content;
            }
            for entry in news.entries {
                let topic = entry.topic;
                if learn_entry(node, entry) {
                    changes.push(Change::Entry(store, topic));
                }
            }
        }
        if news.beat.age() > known.age() {
            self.rise(now_ms, index, news.beat.age(), changes);
        }
    }

    /// A later heartbeat of the node at `index` came.
    fn rise(&mut self, now_ms: u64, index: usize, age: Age, changes: &mut Vec<Change>) {
        let node = &mut self.nodes[index];
        if node.beat.store != self.me && node.rise(age, now_ms) {
            changes.push(Change::Up(node.beat.store));
        }
    }

    /// Who talks to us lives, even if its heartbeat was heard of before.
    fn hear_from(&mut self, from: StoreId, changes: &mut Vec<Change>) {
        let Ok(index) = self.find(from) else { return };
        let node = &mut self.nodes[index];
        if node.standing == Standing::Unheard && node.beat.generation > 0 {
            node.standing = Standing::Up;
            node.suspected = false;
            changes.push(Change::Up(from));
        }
    }

    /// Who has just said that it stops is down, without any suspicion.
    fn see_off(&mut self, changes: &mut Vec<Change>) -> Vec<StoreId> {
        let said = changes.iter().filter_map(|change| match change {
            Change::Entry(store, Topic::GOODBYE) => Some(*store),
            _ => None,
        });
        let mut left = Vec::new();
        for store in said.collect::<Vec<_>>() {
            let gone = self.numbers(store, Topic::GOODBYE) == Some(&[1]);
            if let (true, Ok(index)) = (gone && store != self.me, self.find(store)) {
                self.nodes[index].standing = Standing::Down;
                changes.retain(|change| *change != Change::Up(store));
                changes.push(Change::Down(store));
                left.push(store);
            }
        }
        left
    }

    /// Others know a later heartbeat of this node than it has sent: an earlier life's. Takes a later life.
    fn renew(&mut self, theirs: &Beat, changes: &mut Vec<Change>) {
        let me = self.mine();
        let mine = &mut self.nodes[me].beat;
        let is_later = theirs.age() > mine.age()
            || (theirs.generation == mine.generation && theirs.content > mine.content);
        if is_later {
            mine.generation = theirs.generation.saturating_add(1);
            changes.push(Change::Renewed(mine.generation));
        }
    }

    /// What the other side wants to know.
    fn wanted(&self, want: &[Beat]) -> Vec<News> {
        let mut answer = Answer::default();
        for theirs in want {
            if let Ok(index) = self.find(theirs.store) {
                let node = &self.nodes[index];
                let same_life = theirs.generation == node.beat.generation;
                let since = if same_life { theirs.content } else { 0 };
                answer.tell(node, since, self.active_ms.unwrap_or(0));
            }
        }
        answer.news
    }
}

/// Takes up one entry, if it is later. Returns whether it was.
fn learn_entry(node: &mut Node, entry: Entry) -> bool {
    let is_later = match node.entry(entry.topic) {
        Some(known) => entry.version > known.version,
        None => node.entries.len() < ENTRIES_MAX,
    };
    if is_later {
        node.put(entry);
    }
    is_later
}

/// An answer in the making.
#[derive(Default)]
struct Answer {
    beats: Vec<Beat>,
    news: Vec<News>,
    news_bytes: usize,
    want: Vec<Beat>,
}

impl Answer {
    /// Tells a node's entries later than `since`, while there is room.
    fn tell(&mut self, node: &Node, since: u64, now_ms: u64) {
        if !node.is_told(now_ms) || self.news_bytes >= NEWS_BYTES_MAX {
            return;
        }
        let told = |entry: &&Entry| {
            (since == 0 || entry.version > since) && entry.version <= node.beat.content
        };
        let news = News {
            beat: node.beat,
            since,
            entries: node.entries.iter().filter(told).cloned().collect(),
        };
        self.news_bytes += news.bytes();
        self.news.push(news);
    }
}
