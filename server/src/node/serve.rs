//! The second half of a start: the data path, the ports, and the tasks that keep a node going.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use rand::RngExt;
use ringfort_ring::{
    StoreId,
    gossip::{Topic, Value},
};
use ringfort_storage::{Key, Store, store::ReapWindow};
use tokio::{sync::oneshot, task::AbortHandle};
use tonic::transport::Server;

use super::{
    Node,
    ask::{Answers, Asker},
    generations::Generations,
    greeter::Greeter,
    parts::{Driven, Fatal},
    purpose, refresh, start,
};
use crate::{
    bootstrap::Decree,
    council::{self, Part},
    data::{DataParts, DataPath},
    exchange::{self, Board, Exchanger, schedule::Timing},
    gossip::{self, GossipParts, Gossiper},
    grpc::{
        KvParts,
        admin::{AdminParts, admin_service},
        kv_service,
        standard::{health_service, reflection_service},
        switch::Switch,
    },
    handoff,
    limits::{CLIENT_CONNECTION_WINDOW, CLIENT_STREAM_WINDOW},
    marks::Marks,
    mover::{self, End, Mover},
    net::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, PEER_WINDOW_BYTES},
    peer::{Bulk, DataSlot, Fences, Links, service},
    reaper::{self, Missed, Reaper},
    scrub::{self, Scrub},
    view::{View, Views},
};

/// Streams of one connection, at most: a session, and unary calls beside it.
const MAX_STREAMS: u32 = 16_384;
/// A client that is silent this long is asked whether it still lives.
const CLIENT_KEEPALIVE: Duration = Duration::from_secs(10);
/// A member that has answered is alive: its connections are waited for so long.
const LINK_WAIT: Duration = Duration::from_secs(3);

/// Tasks of a node; dropping this ends them all.
#[derive(Default)]
pub(super) struct Tasks(Mutex<Vec<AbortHandle>>);

impl Tasks {
    /// Runs `task` for as long as the node does.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let handle = tokio::spawn(task).abort_handle();
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(handle);
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        let tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().for_each(AbortHandle::abort);
    }
}

/// A member that has recovered: what it has before it serves clients.
pub(super) struct Base {
    pub store: Store,
    pub driven: Box<dyn Driven>,
    /// Keys whose hints were damaged.
    pub damaged_hints: Vec<Key>,
    pub greeter: Arc<Greeter>,
    pub slot: DataSlot,
    pub stop_peers: oneshot::Sender<()>,
}

/// A node that takes part, as far as the layout lists it. Clients are served once it does.
pub(super) struct Running {
    pub store: Store,
    pub driven: Box<dyn Driven>,
    pub data: DataPath,
    pub stop_peers: oneshot::Sender<()>,
    admin: AdminParts,
}

/// The client port of a member.
pub(super) struct Clients {
    pub stop: oneshot::Sender<()>,
    pub stopped: oneshot::Receiver<()>,
}

impl Running {
    /// Tells others that this node is gone.
    pub async fn goodbye(&self) {
        self.admin.gossip.goodbye().await;
    }

    /// Ends when the store has failed, or its identity cannot be written.
    pub async fn failure(&self) -> Fatal {
        let why = tokio::select! {
            why = super::failed(self.driven.failure()) => why,
            why = super::failed(self.store.identity().failure()) => return Fatal::Storage(why),
        };
        // A flush that hangs is reported by the watchdog alone.
        if self.store.engine_failure().is_some() || why.contains("storage engine") {
            Fatal::Engine(why)
        } else {
            Fatal::Storage(why)
        }
    }
}

impl Node {
    /// Serves the peer port: questions and offers at once, the data path as soon as `slot` is filled.
    pub(super) async fn serve_peers(
        &self,
        greeter: &Arc<Greeter>,
        slot: &DataSlot,
        tasks: &Tasks,
        stopped: oneshot::Receiver<()>,
    ) -> Result<(), Fatal> {
        let listener = self
            .bind(&self.config.peer_addr.to_string(), "peer")
            .await?
            .limited(self.config.peer_connections);
        let service = service(greeter.clone(), slot.clone());
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .initial_stream_window_size(PEER_WINDOW_BYTES)
            .initial_connection_window_size(PEER_WINDOW_BYTES)
            .max_concurrent_streams(MAX_STREAMS)
            .serve_with_incoming_shutdown(service, listener.incoming, async move {
                let _ = stopped.await;
            });
        tasks.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the peer port failed");
            }
        });
        Ok(())
    }

    /// From a recovered store to a node that takes part in everything but the service of clients, and the end of its worker that
    /// carries out changes of layouts.
    pub(super) async fn serve(
        &self,
        decree: &Decree,
        base: Base,
        tasks: &Tasks,
    ) -> Result<(Running, oneshot::Receiver<End>), Fatal> {
        let roster = base.greeter.roster.clone();
        self.health.doing("asking the members");
        let council = council::Council::new(council::Parts {
            cluster: decree.cluster,
            identity: base.store.identity().clone(),
            founding: decree.layout.clone(),
            net: self.net().clone(),
            routes: self.routes.clone(),
        });
        let council = council.map_err(|error| Fatal::Start(error.to_string()))?;
        let _ = base.greeter.council.set(council.clone());
        let asker = Arc::new(Asker::new(
            &council.newest(),
            roster.clone(),
            self.routes.clone(),
            self.net(),
            self.config.connect_timeout,
            base.store.durable(),
        ));
        let (patience, newest) = (self.config.hello_timeout, council.newest());
        let seeds = self.seeds(&roster.me().peer_addr);
        let (listed, found) = tokio::join!(
            asker.ask_generations(patience),
            asker.find(&seeds, &newest, patience)
        );
        let mut answers = listed;
        answers.extend(found);
        start::judge_memory(&base.store, &answers)?;
        start::announce(&base.store, &asker, &answers, patience).await;
        let others = answers.values().flatten();
        self.steady.agree(others.map(|answer| answer.steady_ms));
        refresh::catch_up(&council, &self.routes, &answers).await;
        let me = roster.me();
        start::check_part(council.part(), &council.newest(), me)?;
        let unsynced = start::unsynced(me.store_id, &base.store, &answers);
        let view = View::new(decree.cluster, &council.history(), me.store_id, &unsynced);
        let views = Views::new(view.map_err(|error| Fatal::Start(error.to_string()))?);
        council.follow(follow(views.clone(), asker.clone()));
        let missed = Arc::new(Missed::new(views.clone(), base.store.clone()));
        let generations = Generations::of(&answers);
        let taken_over = generations.take_over(&base.store, &views.current(), &missed);
        taken_over.map_err(|error| Fatal::Storage(error.to_string()))?;

        let fences = Fences::new(views.clone(), me.store_id, base.store.durable());
        let gossip = self.gossip(&base, &views, (&fences, seeds));
        tasks.spawn(gossip.clone().run());
        self.health.doing("connecting to the members");
        let board = self.board(&base, &views);
        let marks = &board.marks;
        handoff::mark_damaged(&views.current(), &base.store, &base.damaged_hints, marks);
        let data = self.data_path(&base, &views, (fences, &board, &missed));
        let hints = self.handoff(&base, &views, &data, marks, tasks);
        tasks.spawn(council::listen::run(
            council.clone(),
            council::listen::Ears {
                gossip: gossip.clone(),
                ahead: data.fences.ahead(),
                routes: self.routes.clone(),
            },
        ));
        let own = council::own::Own {
            me: me.clone(),
            store: base.store.clone(),
            views: views.clone(),
        };
        tasks.spawn(council::own::run(council.clone(), own));
        if self.config.auto_join {
            tasks.spawn(council::auto::run(council.clone(), gossip.clone()));
        }
        wait_for_links(&data.links, &answers, self.config.connect_timeout).await;
        let scrub = self.scrub(&base, &data);
        tasks.spawn(scrub.clone().run());
        let clock = self.parts.clock.clone();
        let reaping = reaper::Figures::new(clock, views.clone(), self.counters.clone());
        let reaping = Arc::new(reaping);
        // Set once: a node comes here once.
        let _ = base.greeter.reaping.set(reaping.clone());
        let progress = base.greeter.progress.clone();
        let (shown, reaped) = (board.clone(), reaping.clone());
        self.metrics.add_probes(vec![
            refresh::figures(&base.store, &data.links, &views),
            Box::new(move || mover::progress::gauges(progress.figures())),
            Box::new(move || hints.gauges()),
            Box::new(move || scrub::gauges(&scrub.to_wire())),
            Box::new(move || reaped.gauges()),
            Box::new(move || shown.gauges()),
        ]);
        let (figures, shown) = (gossip::figures(&gossip), board.clone());
        self.metrics.add_families(Box::new(move || {
            let mut all = figures();
            all.extend(shown.families());
            all
        }));
        self.exchanger(&base, &data, &views, (&board, &missed), tasks);
        self.reaper(&base, &data, (&views, &council), &reaping, tasks);
        let mover = self.mover(&base, &data, &views, (&council, &asker, &missed), tasks);
        let admin = AdminParts {
            views: views.clone(),
            asker: asker.clone(),
            greeter: base.greeter.clone(),
            gossip,
            council,
            bulk: Arc::new(Bulk::new(self.net(), &self.routes, &data.fences)),
            pool: base.driven.pool(),
            net: self.net().clone(),
            timeout: self.config.status_timeout,
        };
        tasks.spawn(refresh::run(refresh::Parts {
            learner: refresh::Learner {
                asker,
                views,
                store: base.store.clone(),
                timeout: self.config.status_timeout,
            },
            heard: self.heard.clone(),
            coordinator: data.coordinator.clone(),
            disk: self.parts.disk.clone(),
            floors: refresh::Floors {
                puts: self.config.free_space_floor.0,
                all: self.config.free_space_reserve.0,
            },
            jitter: start::chance(self.parts.seed, purpose::LINKS).random(),
        }));
        let running = Running {
            store: base.store,
            driven: base.driven,
            data,
            stop_peers: base.stop_peers,
            admin,
        };
        Ok((running, mover))
    }

    /// Starts the worker that delivers hints.
    fn handoff(
        &self,
        base: &Base,
        views: &Views,
        data: &DataPath,
        marks: &Arc<Marks>,
        tasks: &Tasks,
    ) -> Arc<handoff::figures::Figures> {
        let worker = handoff::Handoff::new(handoff::Parts {
            clock: self.parts.clock.clone(),
            steady: self.steady.clone(),
            views: views.clone(),
            store: base.store.clone(),
            net: self.net().clone(),
            routes: self.routes.clone(),
            links: data.links.clone(),
            fences: data.fences.clone(),
            coordinator: data.coordinator.clone(),
            marks: marks.clone(),
            age_max: self.config.hint_age,
            bytes_per_s: self.config.hint_rate.0,
            jitter: start::chance(self.parts.seed, purpose::LINKS).random(),
        });
        let figures = worker.figures();
        // Set once: a node comes here once.
        let _ = base.greeter.hints.set(figures.clone());
        tasks.spawn(worker.run());
        figures
    }

    /// The worker that verifies what is stored.
    fn scrub(&self, base: &Base, data: &DataPath) -> Arc<Scrub> {
        let scrub = Scrub::new(scrub::Parts {
            clock: self.parts.clock.clone(),
            store: base.store.clone(),
            pool: base.driven.pool(),
            coordinator: data.coordinator.clone(),
            counters: self.counters.clone(),
            bytes_per_s: self.config.scrub_rate.0,
            interval: self.config.scrub_interval,
            jitter: start::chance(self.parts.seed, purpose::SCRUB).random(),
        });
        // Set once: a node comes here once.
        let _ = base.greeter.scrub.set(scrub.clone());
        scrub
    }

    /// Starts the worker that carries out changes of layouts.
    fn mover(
        &self,
        base: &Base,
        data: &DataPath,
        views: &Views,
        (council, asker, missed): (&Arc<council::Council>, &Arc<Asker>, &Arc<Missed>),
        tasks: &Tasks,
    ) -> oneshot::Receiver<End> {
        let learner = refresh::Learner {
            asker: asker.clone(),
            views: views.clone(),
            store: base.store.clone(),
            timeout: self.config.status_timeout,
        };
        let mover = Mover::new(mover::Parts {
            clock: self.parts.clock.clone(),
            council: council.clone(),
            views: views.clone(),
            store: base.store.clone(),
            pool: base.driven.pool(),
            net: self.net().clone(),
            routes: self.routes.clone(),
            fences: data.fences.clone(),
            coordinator: data.coordinator.clone(),
            learn: Box::new(move || {
                let learner = learner.clone();
                async move { learner.learn().await }.boxed()
            }),
            adopt: {
                let (asker, store) = (asker.clone(), base.store.clone());
                let patience = self.config.status_timeout;
                Box::new(move |partitions| {
                    let (asker, store) = (asker.clone(), store.clone());
                    async move {
                        let answers = asker.ask_generations(patience).await;
                        let generations = Generations::of(&answers);
                        let adopted = generations.adopt(&store, &partitions);
                        adopted.map_err(|error| error.to_string())
                    }
                    .boxed()
                })
            },
            missed: missed.clone(),
            progress: base.greeter.progress.clone(),
            bytes_per_s: self.config.transfer_rate.0,
            jitter: start::chance(self.parts.seed, purpose::LINKS).random(),
        });
        let (ended, has_ended) = oneshot::channel();
        tasks.spawn(async move {
            let end = mover.run().await;
            let _ = ended.send(end);
        });
        has_ended
    }

    /// Waits until a layout lists this node, and then serves clients.
    pub(super) async fn admit(&self, running: &Running, tasks: &Tasks) -> Result<Clients, Fatal> {
        let AdminParts {
            council, gossip, ..
        } = &running.admin;
        let me = running.admin.greeter.roster.me();
        let mut changed = council.changes();
        let mut waited = false;
        loop {
            changed.mark_unchanged();
            let part = council.part();
            start::check_part(part, &council.newest(), me)?;
            let is_waiting = part == Part::Waiting;
            let said = gossip.say(Topic::WAITING, Value::number(u64::from(is_waiting)));
            // One number always fits; only a full list of topics could refuse it.
            said.map_err(|error| Fatal::Start(error.to_string()))?;
            if !is_waiting {
                break;
            }
            if !waited {
                let what = format!("waiting to be added: `ringfort layout add {}`", me.name);
                tracing::info!("{what}");
                self.health.doing(&what);
                waited = true;
            }
            // The council lives as long as this node.
            if changed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        if waited {
            self.health.doing("connecting to the members");
            wait_for_links(
                &running.data.links,
                &Answers::new(),
                self.config.connect_timeout,
            )
            .await;
        }
        self.serve_clients(running.data.kv(), running.admin.clone(), tasks)
            .await
    }

    /// Whom to ask when nobody is to be found where the layout lists them.
    fn seeds(&self, my_peer_addr: &str) -> Vec<String> {
        let initial = self.config.initial.iter().map(|m| m.peer.to_string());
        let mut seeds: Vec<String> = self.config.seeds.iter().map(ToString::to_string).collect();
        seeds.extend(initial.filter(|addr| addr != my_peer_addr));
        seeds
    }

    /// From here on this node answers gossip.
    fn gossip(
        &self,
        base: &Base,
        views: &Views,
        (fences, seeds): (&Fences, Vec<String>),
    ) -> Arc<Gossiper> {
        let me = base.greeter.roster.me();
        let durable = base.store.durable();
        let gossip = Gossiper::new(GossipParts {
            clock: self.parts.clock.clone(),
            views: views.clone(),
            fences: fences.clone(),
            heard: self.heard.clone(),
            durable,
            net: self.net().clone(),
            connect_timeout: self.config.connect_timeout,
            me: me.clone(),
            seeds,
            routes: self.routes.clone(),
            counters: self.counters.clone(),
            events: self.parts.events.clone(),
            seed: start::chance(self.parts.seed, purpose::GOSSIP).random(),
        });
        // Set once: a node comes here once.
        let _ = base.greeter.gossip.set(gossip.clone());
        gossip
    }

    /// How exchanges are: nothing is compared yet.
    fn board(&self, base: &Base, views: &Views) -> Arc<Board> {
        let seed = start::chance(self.parts.seed, purpose::EXCHANGE).random();
        let timing = Timing::new(self.config.exchange_interval, seed);
        let me = views.current().my_store();
        let board = Board::new(me, timing, self.parts.clock.clone());
        // Set once: a node comes here once.
        let _ = base.greeter.board.set(board.clone());
        board
    }

    /// Starts the worker that compares partitions with their other owners.
    fn exchanger(
        &self,
        base: &Base,
        data: &DataPath,
        views: &Views,
        (board, missed): (&Arc<Board>, &Arc<Missed>),
        tasks: &Tasks,
    ) {
        let exchanger = Exchanger::new(exchange::Parts {
            clock: self.parts.clock.clone(),
            views: views.clone(),
            store: base.store.clone(),
            pool: base.driven.pool(),
            net: self.net().clone(),
            routes: self.routes.clone(),
            fences: data.fences.clone(),
            coordinator: data.coordinator.clone(),
            links: data.links.clone(),
            board: board.clone(),
            missed: missed.clone(),
            bytes_per_s: self.config.transfer_rate.0,
        });
        tasks.spawn(exchanger.run());
    }

    /// Starts the worker that reaps.
    fn reaper(
        &self,
        base: &Base,
        data: &DataPath,
        (views, council): (&Views, &Arc<council::Council>),
        figures: &Arc<reaper::Figures>,
        tasks: &Tasks,
    ) {
        let reaper = Reaper::new(reaper::Parts {
            clock: self.parts.clock.clone(),
            steady: self.steady.clone(),
            views: views.clone(),
            store: base.store.clone(),
            council: council.clone(),
            pool: base.driven.pool(),
            net: self.net().clone(),
            routes: self.routes.clone(),
            links: data.links.clone(),
            fences: data.fences.clone(),
            coordinator: data.coordinator.clone(),
            answerer: data.replica.reaping().clone(),
            figures: figures.clone(),
            counters: self.counters.clone(),
            window: ReapWindow {
                soft_delete_ms: self.config.soft_delete.as_millis() as u64,
                grace_ms: self.config.reap_grace.as_millis() as u64,
            },
            jitter: start::chance(self.parts.seed, purpose::REAPER).random(),
        });
        tasks.spawn(reaper.run());
    }

    fn data_path(
        &self,
        base: &Base,
        views: &Views,
        (fences, board, missed): (Fences, &Arc<Board>, &Arc<Missed>),
    ) -> DataPath {
        let seed = self.parts.seed;
        let data = DataPath::start(DataParts {
            clock: self.parts.clock.clone(),
            steady: self.steady.clone(),
            views: views.clone(),
            store: base.store.clone(),
            fences,
            heard: self.heard.clone(),
            routes: self.routes.clone(),
            net: self.net().clone(),
            pool: base.driven.pool(),
            board: board.clone(),
            missed: missed.clone(),
            limits: self.config.limits(),
            counters: self.counters.clone(),
            client_id: start::chance(seed, purpose::CLIENT_ID).random(),
            jitter_seed: start::chance(seed, purpose::LINKS).random(),
        });
        // Filled once: a node starts its data path once.
        let _ = base.slot.set(data.replica.clone());
        data
    }

    async fn serve_clients(
        &self,
        kv: KvParts,
        admin: AdminParts,
        tasks: &Tasks,
    ) -> Result<Clients, Fatal> {
        let listener = self
            .bind(&self.config.client_addr.to_string(), "client")
            .await?
            .limited(self.config.connections);
        let switch = Switch::default()
            .with(kv_service(kv))
            .with(admin_service(admin))
            .with(health_service(&self.health).await)
            .with(reflection_service());
        let (stop, stopped) = oneshot::channel::<()>();
        let (ended, has_ended) = oneshot::channel();
        let server = Server::builder()
            .http2_keepalive_interval(Some(CLIENT_KEEPALIVE))
            .http2_keepalive_timeout(Some(CLIENT_KEEPALIVE))
            .initial_stream_window_size(CLIENT_STREAM_WINDOW)
            .initial_connection_window_size(CLIENT_CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .serve_with_incoming_shutdown(switch, listener.incoming, async move {
                let _ = stopped.await;
            });
        tasks.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the client port failed");
            }
            let _ = ended.send(());
        });
        Ok(Clients {
            stop,
            stopped: has_ended,
        })
    }
}

/// What news of layouts are told to: the view that requests are served by, and who asks the members.
fn follow(views: Views, asker: Arc<Asker>) -> council::Follow {
    Box::new(move |history| {
        views.update(|view| {
            let changed = view.history() != history;
            let view = changed.then(|| view.with_history(history))?;
            view.inspect_err(|error| tracing::error!(%error, "a layout that gives no view: a bug"))
                .ok()
        });
        asker.follow(history.decree());
    })
}

/// One attempt to connect to each member; those that have answered are alive, and are waited for.
async fn wait_for_links(links: &Links, answers: &Answers, connect_timeout: Duration) {
    let alive: BTreeSet<StoreId> = answers
        .iter()
        .filter(|(_, answer)| answer.is_some())
        .map(|(store, _)| *store)
        .collect();
    let mut states = links.states();
    let up = states.wait_for(|states| {
        let connected = |store: &StoreId| states.connected.get(store) == Some(&true);
        states.all_attempted && alive.iter().all(connected)
    });
    let patience = LINK_WAIT.max(2 * connect_timeout);
    if tokio::time::timeout(patience, up).await.is_err() {
        tracing::warn!("not all members that answer can be reached on the data path yet");
    }
}
