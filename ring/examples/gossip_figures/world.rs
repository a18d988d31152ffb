//! A world of nodes that gossip: simulated time, messages that are late or lost, nodes that stall, die and come back.
//!
//! *Invariant:* all chance comes from one seed, so one seed is one history.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use ringfort_ring::{
    Member, NodeName, PlacementId, StoreId, TOKENS_PER_CAPACITY,
    gossip::{Change, Gossip, Message, Settings, Spread, Standing, Target, Topic, Value},
    token,
};

/// A clock of the wall when a world begins, in ms: generations take as many bytes as they do in life.
const WALL_MS: u64 = 1_800_000_000_000;

/// Where everybody asks first.
pub const SEED: &str = "10.0.0.0";

/// What goes wrong, and how long messages take.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Messages that are lost, of a thousand.
    pub loss_permille: u64,
    /// A message takes at least so long, in ms …
    pub latency_min_ms: u64,
    /// … and at most so long.
    pub latency_max_ms: u64,
    /// How long a node stalls, in ms.
    pub pause_ms: u64,
    /// A node stalls once in so many ms, on average; 0 for never.
    pub pause_every_ms: u64,
}

/// Nothing goes wrong.
pub const FAIR: Weather = Weather {
    loss_permille: 0,
    latency_min_ms: 1,
    latency_max_ms: 5,
    pause_ms: 0,
    pause_every_ms: 0,
};

/// 5 % of messages are lost, and each node stalls for 200 ms about every ten seconds.
pub const FOUL: Weather = Weather {
    loss_permille: 50,
    latency_min_ms: 1,
    latency_max_ms: 20,
    pause_ms: 200,
    pause_every_ms: 10_000,
};

enum What {
    Tick { life: u64 },
    Pause,
    Message { from: StoreId, message: Message },
}

/// One node, over all its lives.
struct Site {
    store: StoreId,
    gossip: Option<Gossip>,
    /// Counts the lives; ticks of an earlier one are void.
    life: u64,
    paused_until_ms: u64,
    addr: String,
}

/// A message on its way, or something that is to happen at one node.
struct Due {
    site: usize,
    what: What,
}

/// The verdict of one node on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// When, in ms.
    pub at_ms: u64,
    /// Who judged.
    pub by: usize,
    /// Who is up or down.
    pub on: usize,
    /// Whether it is up.
    pub up: bool,
    /// Whether that was so.
    pub right: bool,
}

/// See the module.
pub struct World {
    /// What goes wrong.
    pub weather: Weather,
    /// All verdicts so far, in order.
    pub verdicts: Vec<Verdict>,
    /// Bytes that all nodes have sent.
    pub bytes: u64,
    /// Messages that all nodes have sent.
    pub messages: u64,
    settings: Settings,
    now_ms: u64,
    sites: Vec<Site>,
    /// The members of the layout that all have; none among strangers.
    layout: Vec<Member>,
    places: BTreeMap<StoreId, usize>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    due: BTreeMap<u64, Due>,
    count: u64,
    chance: u64,
}

impl World {
    /// A world of `count` nodes that know nothing but the address of node 0, which is everybody's seed.
    pub fn strangers(count: usize, weather: Weather, seed: u64) -> World {
        let mut world = World {
            weather,
            verdicts: Vec::new(),
            bytes: 0,
            messages: 0,
            settings: Settings::default(),
            now_ms: 0,
            sites: Vec::new(),
            layout: Vec::new(),
            places: BTreeMap::new(),
            queue: BinaryHeap::new(),
            due: BTreeMap::new(),
            count: 0,
            chance: seed,
        };
        for number in 0..count {
            let store = StoreId(token(&seed.to_be_bytes(), &number.to_be_bytes()).0);
            world.places.insert(store, number);
            world.sites.push(Site {
                store,
                gossip: None,
                life: 0,
                paused_until_ms: 0,
                addr: addr(number),
            });
            world.start(number);
        }
        world.stir();
        world
    }

    /// From now on nodes stall, if that is the weather. To be called once after it became so.
    pub fn stir(&mut self) {
        if self.weather.pause_every_ms > 0 {
            for site in 0..self.sites.len() {
                let first = self.now_ms + self.draw(2 * self.weather.pause_every_ms);
                self.schedule(first, site, What::Pause);
            }
        }
    }

    /// A world of `count` nodes that are members of one layout, and have heard of each other.
    pub fn members(count: usize, weather: Weather, seed: u64) -> World {
        let mut world = World::strangers(count, weather, seed);
        let settled = world.run_until(120_000, World::all_know_all);
        assert!(
            settled.is_some(),
            "strangers with one seed hear of each other"
        );
        world.enlist();
        world
    }

    /// Lists all nodes in one layout, and forgets what was counted so far.
    pub fn enlist(&mut self) {
        self.layout = (0..self.sites.len())
            .map(|site| self.member(site))
            .collect();
        for site in &mut self.sites {
            if let Some(gossip) = &mut site.gossip {
                gossip.follow(self.now_ms, &self.layout);
            }
        }
        self.verdicts.clear();
        self.bytes = 0;
        self.messages = 0;
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.chance = token(b"chance", &self.chance.to_be_bytes()).0;
        self.chance % below.max(1)
    }

    /// The time, in ms.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The node of that number, if it lives.
    pub fn gossip(&mut self, site: usize) -> Option<&mut Gossip> {
        self.sites[site].gossip.as_mut()
    }

    /// The store of the node of that number.
    pub fn store(&self, site: usize) -> StoreId {
        self.sites[site].store
    }

    /// The nodes that live.
    pub fn living(&self) -> Vec<usize> {
        (0..self.sites.len())
            .filter(|&site| self.sites[site].gossip.is_some())
            .collect()
    }

    fn member(&self, site: usize) -> Member {
        Member {
            name: NodeName::new(format!("node-{site}")).expect("a valid name"),
            placement_id: PlacementId(self.sites[site].store.0),
            store_id: self.sites[site].store,
            tokens: TOKENS_PER_CAPACITY,
            zone: String::new(),
            client_addr: format!("{}:7400", self.sites[site].addr),
            peer_addr: format!("{}:7500", self.sites[site].addr),
            http_addr: format!("{}:7600", self.sites[site].addr),
        }
    }

    /// Starts a node that does not live, in a new life.
    pub fn start(&mut self, site: usize) {
        let member = self.member(site);
        let generation = WALL_MS + self.now_ms;
        let seed = self.draw(u64::MAX);
        let life = self.sites[site].life + 1;
        let mut gossip = Gossip::new(member.store_id, generation, self.settings, seed);
        gossip.follow(self.now_ms, &self.layout);
        let listing = Value::Listing(Arc::new(member));
        gossip.set(Topic::LISTING, listing).expect("small");
        self.sites[site].gossip = Some(gossip);
        self.sites[site].life = life;
        let first = self.draw(self.settings.tick_ms);
        self.schedule(self.now_ms + first, site, What::Tick { life });
    }

    /// Ends a node, without a word to anybody.
    pub fn kill(&mut self, site: usize) {
        self.sites[site].gossip = None;
    }

    /// Gives a node that does not live another address.
    pub fn move_to(&mut self, site: usize, addr: &str) {
        self.sites[site].addr = addr.to_owned();
    }

    fn schedule(&mut self, at_ms: u64, site: usize, what: What) {
        self.count += 1;
        self.queue.push(Reverse((at_ms, self.count)));
        self.due.insert(self.count, Due { site, what });
    }

    /// Runs for so long.
    pub fn run(&mut self, ms: u64) {
        self.run_until(ms, |_| false);
    }

    /// Runs until `ended` holds, and at most for so long. Returns how long it took, to 10 ms.
    pub fn run_until(&mut self, ms: u64, mut ended: impl FnMut(&World) -> bool) -> Option<u64> {
        let begin = self.now_ms;
        while self.now_ms < begin + ms {
            if ended(self) {
                return Some(self.now_ms - begin);
            }
            let until = self.now_ms + 10;
            while let Some(&Reverse((at_ms, id))) = self.queue.peek() {
                if at_ms > until {
                    break;
                }
                self.queue.pop();
                self.now_ms = at_ms;
                let due = self.due.remove(&id).expect("scheduled");
                self.play(due);
            }
            self.now_ms = until;
        }
        ended(self).then_some(ms)
    }

    fn play(&mut self, due: Due) {
        let Due { site, what } = due;
        let paused_until = self.sites[site].paused_until_ms;
        if paused_until > self.now_ms {
            return self.schedule(paused_until, site, what);
        }
        match what {
            What::Pause => {
                self.sites[site].paused_until_ms = self.now_ms + self.weather.pause_ms;
                let next = self.now_ms + 1 + self.draw(2 * self.weather.pause_every_ms);
                self.schedule(next, site, What::Pause);
            }
            What::Tick { life } => self.tick(site, life),
            What::Message { from, message } => self.deliver(site, from, message),
        }
    }

    fn tick(&mut self, site: usize, life: u64) {
        let now_ms = self.now_ms;
        let here = &mut self.sites[site];
        let (true, Some(gossip)) = (here.life == life, &mut here.gossip) else {
            return;
        };
        let (from, period) = (here.store, gossip.period_ms());
        let tick = gossip.tick(now_ms, 1);
        self.note(site, &tick.changes);
        self.spread(site, from, &tick.spread);
        if let Some(rumour) = tick.hurry {
            self.spread(site, from, &rumour);
        }
        self.schedule(now_ms + period, site, What::Tick { life });
    }

    fn spread(&mut self, site: usize, from: StoreId, spread: &Spread) {
        for target in &spread.targets {
            let to = match target {
                Target::Seed(_) => self.at(SEED),
                // Whoever lives at the address that the target told.
                Target::Node(store) => {
                    let gossip = self.sites[site].gossip.as_ref();
                    let listing = gossip.and_then(|gossip| gossip.listing(*store));
                    listing.and_then(|listing| self.at(listing.peer_addr.strip_suffix(":7500")?))
                }
            };
            if let Some(to) = to {
                self.send(from, to, spread.message.clone());
            }
        }
    }

    /// Who lives at that address.
    fn at(&self, at: &str) -> Option<usize> {
        let lives = |site: &usize| self.sites.get(*site).is_some_and(|here| here.addr == at);
        // Few ever move.
        let first = site_of(at).filter(lives);
        first.or_else(|| (0..self.sites.len()).find(lives))
    }

    fn send(&mut self, from: StoreId, to: usize, message: Message) {
        self.bytes += message.bytes() as u64;
        self.messages += 1;
        if self.draw(1_000) < self.weather.loss_permille {
            return;
        }
        let span = self.weather.latency_max_ms - self.weather.latency_min_ms + 1;
        let at_ms = self.now_ms + self.weather.latency_min_ms + self.draw(span);
        self.schedule(at_ms, to, What::Message { from, message });
    }

    fn deliver(&mut self, site: usize, from: StoreId, message: Message) {
        let here = self.sites[site].store;
        let Some(gossip) = &mut self.sites[site].gossip else {
            return;
        };
        if from == here {
            return;
        }
        let received = gossip
            .receive(self.now_ms, from, message)
            .expect("nodes are sound");
        self.note(site, &received.changes);
        if let Some(reply) = received.reply {
            self.send(here, self.places[&from], reply);
        }
        if let Some(spread) = received.hurry {
            self.spread(site, here, &spread);
        }
    }

    fn note(&mut self, by: usize, changes: &[Change]) {
        for change in changes {
            let (store, up) = match change {
                Change::Up(store) => (store, true),
                Change::Down(store) => (store, false),
                Change::Entry(..) | Change::Renewed(_) => continue,
            };
            let on = self.places[store];
            self.verdicts.push(Verdict {
                at_ms: self.now_ms,
                by,
                on,
                up,
                right: up == self.sites[on].gossip.is_some(),
            });
        }
    }

    /// Whether every living node knows every living node to be up, and its listing.
    pub fn all_know_all(&self) -> bool {
        let living = self.living();
        living.iter().all(|&by| {
            let gossip = self.sites[by].gossip.as_ref().expect("lives");
            living.iter().all(|&on| {
                let store = self.sites[on].store;
                gossip.is_up(store) && gossip.listing(store).is_some()
            })
        })
    }

    /// Whether every living node holds `site` to be so.
    pub fn all_hold(&self, site: usize, standing: Standing) -> bool {
        let store = self.sites[site].store;
        let mut others = self.sites.iter().filter(|other| other.store != store);
        others.all(|other| {
            other.gossip.as_ref().is_none_or(|gossip| {
                gossip.health(self.now_ms, store).map(|h| h.standing) == Some(standing)
            })
        })
    }

    /// Whether every living node has `value` from `site`.
    pub fn all_have(&self, site: usize, topic: Topic, value: &Value) -> bool {
        let store = self.sites[site].store;
        let mut gossips = self.sites.iter().filter_map(|site| site.gossip.as_ref());
        gossips.all(|gossip| gossip.value(store, topic) == Some(value))
    }
}

fn addr(site: usize) -> String {
    format!("10.0.{}.{}", site / 256, site % 256)
}

fn site_of(addr: &str) -> Option<usize> {
    let mut parts = addr.strip_prefix("10.0.")?.split('.');
    let (high, low): (usize, usize) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(high * 256 + low)
}
