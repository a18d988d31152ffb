//! `ringfort serve`: one node.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

#[expect(
    clippy::disallowed_types,
    reason = "the edge where a node's seed is drawn"
)]
use rand::{TryRng, rngs::SysRng};
use ringfort_storage::{disk::RealDisk, engine::sled::SledHome};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{
    exit::{CliError, Exit},
    out::{Out, colours},
    process::{host_name, raise_open_files},
};
use crate::{
    clock::SystemClock,
    config::{Config, Flags, HOST_NAME_ENV, unknown_env},
    net::TcpNet,
    node::{self, Event, Fatal, Parts, ThreadDriver},
};

/// The directory of the engine, within the data directory.
const ENGINE_DIR: &str = "sled";
/// Threads of the engine pool: two, and on large machines an eighth of the cores up to 16.
const ENGINE_THREADS: (usize, usize) = (2, 16);
/// Counts, from one process image to the next, how often a failed engine was set aside.
const RESTARTS_ENV: &str = "RINGFORT_ENGINE_RESTARTS";
/// A process that has replaced itself so often has a problem that this does not solve.
const MAX_RESTARTS: u32 = 3;
/// Threads of sled carry names that begin so.
const ENGINE_THREAD_PREFIX: &str = "sled";

/// Ends the help.
const SETTINGS: &str = "\
Each setting is also an environment variable (--client-addr: RINGFORT_CLIENT_ADDR) and a field of the file (client_addr).
`ringfort serve --name n0 --check-config` prints them all with their defaults. BYTES: 4096, 64KiB, 1MiB; DURATION: 500ms,
60s, 2m, 1h.";

/// `ringfort serve`: flags beat environment (`RINGFORT_…`) beats file.
#[derive(Debug, clap::Args)]
#[command(after_help = SETTINGS)]
pub struct Serve {
    /// The settings.
    #[command(flatten)]
    pub flags: Flags,
    /// A TOML file with settings, named as the flags with `_` for `-`
    #[arg(long, env = "RINGFORT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print every setting with its source, and stop
    #[arg(long)]
    pub check_config: bool,
}

/// Runs one node until it is told to stop.
///
/// # Errors
/// Exit 2 for a bad configuration, 1 for a node that cannot start or go on.
pub fn run(serve: &Serve, out: Out) -> Result<Exit, CliError> {
    // A variable that is not text cannot be a setting.
    let mut env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    // What the environment says may be a shell's, of another host.
    if let Some(host) = host_name() {
        env.insert(HOST_NAME_ENV.to_owned(), host);
    }
    let mut config = Config::load(&serve.flags, &env, serve.config.as_deref())?;
    for problem in unknown_env(&env) {
        out.say(&format!("warning: {problem}"));
    }
    if serve.check_config {
        if out.json {
            out.value(&config.report_json())?;
        } else {
            out.bytes(config.report_toml().as_bytes())?;
        }
        return Ok(Exit::Done);
    }
    log_to_stderr();
    if let Some(words) = raise_open_files().and_then(|files| config.fit_open_files(files)) {
        tracing::warn!("{words}");
    }
    let panics = watch_engine_threads();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers)
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("cannot start the runtime: {error}")))?;
    let ended = runtime.block_on(async {
        let shutdown = stop_signal()
            .map_err(|error| CliError::failed(format!("cannot listen to signals: {error}")))?;
        let parts = parts(&config, panics, out)?;
        // On a task of its own, so that it runs on the workers.
        let node = tokio::spawn(node::run(config, parts, shutdown));
        Ok::<_, CliError>(match node.await {
            Ok(ended) => ended,
            Err(panic) => Err(Fatal::Storage(format!("the node panicked: {panic}"))),
        })
    })?;
    match ended {
        Ok(()) => Ok(Exit::Done),
        // What somebody asked for, by a change of the layout.
        Err(Fatal::Out(words)) => {
            out.say(&words);
            Ok(Exit::Done)
        }
        // Before the runtime is dropped: nothing of the engine may run its destructor.
        Err(Fatal::Engine(why)) => Err(start_anew(&why, out)),
        Err(fatal) => {
            std::mem::forget(runtime);
            Err(CliError::failed(fatal.to_string()))
        }
    }
}

fn parts(
    config: &Config,
    engine_panics: watch::Receiver<Option<String>>,
    out: Out,
) -> Result<Parts, CliError> {
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        CliError::failed(format!("{what} {}: {error}", config.data_dir.display()))
    };
    let disk = RealDisk::open(&config.data_dir)
        .map_err(|error| fail("cannot use the data directory", &error))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (least, most) = ENGINE_THREADS;
    let seed = SysRng
        .try_next_u64()
        .map_err(|error| CliError::failed(format!("the system has no randomness: {error}")))?;
    Ok(Parts {
        clock: Arc::new(SystemClock),
        seed,
        net: Arc::new(TcpNet),
        disk: Arc::new(disk),
        engine: Arc::new(SledHome::new(
            config.data_dir.join(ENGINE_DIR),
            config.sled_cache_bytes.0,
        )),
        driver: Arc::new(ThreadDriver {
            engine_threads: (cores / 4).clamp(least, most),
        }),
        engine_panics,
        events: announcer(config.clone(), out),
    })
}

/// Prints what scripts and people wait for; the last line is `ready`.
fn announcer(config: Config, out: Out) -> Arc<dyn Fn(Event) + Send + Sync> {
    let version = env!("CARGO_PKG_VERSION");
    Arc::new(move |event| {
        let dir = config.data_dir.display().to_string();
        let (client, peer, http) = (&config.client_addr, &config.peer_addr, &config.http_addr);
        let printed = match event {
            Event::Member {
                name,
                cluster,
                returning,
            } => {
                let what = if returning { "returning" } else { "new" };
                if out.json {
                    out.value(&json!({
                        "event": "member", "version": version, "node": name, "cluster_id": cluster,
                        "client": client.to_string(), "peer": peer.to_string(), "http": http.to_string(),
                        "data_dir": dir, "state": what,
                    }))
                } else {
                    out.line(&format!(
                        "ringfort {version}\nnode     {name} ({what})\ncluster  {cluster}\nclients  {client}\n\
                         peers    {peer}\nhttp     {http}\ndata     {dir}"
                    ))
                }
            }
            Event::Ready if out.json => out.value(&json!({"event": "ready"})),
            Event::Ready => out.line("ready"),
            // Who comes and goes is for the log: `ready` is the last line.
            Event::Peer { .. } => Ok(()),
        };
        if let Err(error) = printed {
            tracing::debug!(%error, "nobody reads standard output");
        }
    })
}

/// Completes with the first SIGTERM or SIGINT; the second one is left to end the process at once.
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!(
                "told to stop twice: stopping at once; the next start recovers from the log"
            );
            std::process::exit(Exit::Failed as i32);
        });
    })
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("RINGFORT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second subscriber in one process (tests) is no error.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours())
        .try_init();
}

/// Told of panics in threads that belong to the engine: nobody else would notice them.
static ENGINE_PANICS: OnceLock<watch::Sender<Option<String>>> = OnceLock::new();

fn watch_engine_threads() -> watch::Receiver<Option<String>> {
    let sender = ENGINE_PANICS.get_or_init(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            print(panic);
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            if name.starts_with(ENGINE_THREAD_PREFIX)
                && let Some(panics) = ENGINE_PANICS.get()
            {
                panics.send_replace(Some(format!("thread {name} panicked: {panic}")));
            }
        }));
        watch::Sender::new(None)
    });
    sender.subscribe()
}

/// Replaces this process by a new one with the same arguments: its start sets the failed engine aside. Returns only if
/// that is impossible.
fn start_anew(why: &str, out: Out) -> CliError {
    use std::os::unix::process::CommandExt;
    let restarts = std::env::var(RESTARTS_ENV)
        .ok()
        .and_then(|count| count.parse::<u32>().ok())
        .unwrap_or(0);
    if restarts >= MAX_RESTARTS {
        return CliError::failed(format!(
            "the storage engine failed {restarts} times since this node was started, the last time with: {why}"
        ));
    }
    out.say(&format!("the storage engine failed ({why}); starting anew"));
    let exe = match std::env::current_exe() {
        Ok(exe) => exe,
        Err(error) => return CliError::failed(format!("cannot start anew: {error}")),
    };
    let error = std::process::Command::new(exe)
        .args(std::env::args_os().skip(1))
        .env(RESTARTS_ENV, (restarts + 1).to_string())
        .exec();
    CliError::failed(format!("cannot start anew: {error}"))
}
