//! One node of the world: its store, on a disk that may be put back, its core, and what it owes answers for.

use std::{collections::BTreeSet, sync::Arc};

use ringfort_ring::{Epoch, StoreId};
use ringfort_storage::{
    Key, Record, Store,
    disk::SimDisk,
    engine::mem::MemHome,
    log::{LogStep, LogWriter},
    store::{DrainStep, Drainer, Opened, Read, StoreConfig, StoreParts},
};

use super::{
    message::{Dice, Message},
    world::PARTITION,
};
use crate::reaper::core::Core;

/// An answer that waits for the own log.
pub struct Owed {
    pub sequence: u64,
    pub to: usize,
    pub message: Message,
}

/// What a disk held once.
pub struct Image(SimDisk, MemHome);

pub struct Site {
    pub id: usize,
    disk: SimDisk,
    home: MemHome,
    pub store: Store,
    writer: LogWriter,
    drainer: Drainer,
    pub core: Core,
    pub epoch: u64,
    pub owed: Vec<Owed>,
    /// Others whose pages came since it began to receive.
    pub received: BTreeSet<usize>,
    /// Copies that wait for the log before they count: (sequence, write).
    pub waiting: Vec<(u64, usize)>,
    starts: u64,
}

pub fn id(site: usize) -> StoreId {
    StoreId(100 + site as u64)
}

pub fn site_of(store: StoreId) -> usize {
    (store.0 - 100) as usize
}

fn open(disk: &SimDisk, home: &MemHome, seed: u64) -> Opened {
    let mut dice = Dice::new(seed);
    let parts = StoreParts {
        disk: Arc::new(disk.clone()),
        engine: Arc::new(home.clone()),
        chance: Box::new(move || dice.next()),
    };
    let config = StoreConfig {
        segment_bytes: 64 << 10,
        table_bytes: 256 << 10,
        ..StoreConfig::new("n", 2)
    };
    Store::open(parts, &config).expect("it opens")
}

impl Site {
    pub fn new(number: usize, seed: u64) -> Site {
        let disk = SimDisk::new(seed);
        let home = MemHome::beside(&disk);
        let opened = open(&disk, &home, seed);
        Site {
            id: number,
            disk,
            home,
            store: opened.store,
            writer: opened.writer,
            drainer: opened.drainer,
            core: Core::default(),
            epoch: 1,
            owed: Vec::new(),
            received: BTreeSet::new(),
            waiting: Vec::new(),
            starts: 0,
        }
    }

    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    /// Steps the log; gives the writes that are durable here by it.
    pub fn sync(&mut self) -> Vec<usize> {
        while matches!(self.writer.step().expect("the disk works"), LogStep::Worked) {}
        let durable = *self.store.durable().borrow();
        let (done, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(sequence, _)| *sequence <= durable);
        self.waiting = waiting;
        let done: Vec<(u64, usize)> = done;
        done.into_iter().map(|(_, write)| write).collect()
    }

    /// Takes a step of the drain.
    pub fn drain(&mut self, now_ms: u64) {
        for _ in 0..50 {
            match self.drainer.step(now_ms).expect("the disk works") {
                DrainStep::Worked { .. } => {}
                _ => return,
            }
        }
    }

    /// Answers that may go by now.
    pub fn answers(&mut self) -> Vec<(usize, Message)> {
        let durable = *self.store.durable().borrow();
        let (due, owed) = std::mem::take(&mut self.owed)
            .into_iter()
            .partition(|owed: &Owed| owed.sequence <= durable);
        self.owed = owed;
        let due: Vec<Owed> = due;
        due.into_iter()
            .map(|owed| (owed.to, owed.message))
            .collect()
    }

    /// The power goes, and comes back.
    pub fn crash(&mut self, seed: u64) {
        self.disk.crash(seed);
        let pending = self.home.pending() as u64;
        self.home.crash((seed % (pending + 1)) as usize);
        self.start(seed);
    }

    pub fn image(&self) -> Image {
        Image(self.disk.fork(), self.home.fork())
    }

    /// The directory is put back; gives what it comes back as.
    pub fn restore(&mut self, image: &Image, seed: u64) {
        self.disk.restore(&image.0);
        self.home.restore(&image.1);
        self.start(seed);
        self.store.replace_actor();
        self.store.count_for_nothing().expect("the disk works");
    }

    fn start(&mut self, seed: u64) {
        self.starts += 1;
        // The old handles hold the lock of the directory; they are of a process that is gone.
        let (disk, home) = (self.disk.clone(), self.home.clone());
        let opened = open(&disk, &home, seed ^ self.starts << 40);
        self.store = opened.store;
        self.writer = opened.writer;
        self.drainer = opened.drainer;
        self.core = Core::default();
        self.owed.clear();
        self.waiting.clear();
        self.received.clear();
    }

    pub fn read(&self, key: &Key) -> Arc<Record> {
        match self.store.load(std::slice::from_ref(key)).expect("works")[0].clone() {
            Read::Found(record) => record,
            other => panic!("{other:?}"),
        }
    }

    pub fn generation(&self) -> u64 {
        self.store.generation(PARTITION)
    }

    pub fn is_synced(&self) -> bool {
        self.store.is_synced(PARTITION)
    }

    /// Erases the partition, and comes to that generation: it missed a round.
    pub fn begin_anew(&mut self, generation: u64, floor: u64) {
        self.store
            .set_synced(PARTITION, false)
            .expect("the disk works");
        let mut after: Option<Key> = None;
        loop {
            let page = self.store.erase_page(PARTITION, after.as_ref(), 100);
            after = page.expect("there is room").next;
            if after.is_none() {
                break;
            }
        }
        self.waiting.clear();
        self.sync();
        let adopted = self.store.adopt_generation(PARTITION, generation, floor);
        adopted.expect("the disk works");
        self.received.clear();
    }
}
