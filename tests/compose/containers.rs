//! The containers of docker-compose.yml as they are held from outside: by Docker's own commands.

use std::{process::Command, time::Duration};

use ringfort_tests::outside::{
    Held, http,
    schedule::{Fault, Kind},
};

/// The compose project; all that it makes has this name in front.
const PROJECT: &str = "ringfort-storm";
/// The image is tagged so, and removed in the end.
const IMAGE: &str = "ringfort-storm:local";
/// The services, and their hosts' names.
const NODES: [&str; 3] = ["n0", "n1", "n2"];
/// The service of further nodes.
const MORE: &str = "node";
/// Published ports of the first node; the others follow.
const CLIENT_PORT: u16 = 17_400;
const HTTP_PORT: u16 = 17_600;
/// Time between two looks at a cluster that is to become ready.
const LOOK: Duration = Duration::from_millis(200);
/// Looks until the test gives up on it: two minutes.
const READY_LOOKS_MAX: u32 = 600;
/// Lines of each node's log that a failure shows.
const LOG_LINES: &str = "40";

/// A running cluster of containers. Dropping it removes containers, network, volumes and image.
pub struct Containers {
    compose: Compose,
    /// Ids of the containers.
    ids: Vec<String>,
    network: String,
    /// Nodes that ended by themselves, or badly.
    failed: Vec<String>,
}

impl Containers {
    /// Starts the cluster, anew, and waits until all are ready; `None` if no Docker with compose answers.
    pub fn up() -> Option<Containers> {
        let compose = Compose::find()?;
        compose.down();
        compose.run(&["up", "--build", "--detach"]);
        let ids: Vec<String> = (NODES.iter())
            .map(|node| compose.run(&["ps", "--quiet", node]))
            .collect();
        let networks = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}";
        let network = docker(&["inspect", "--format", networks, &ids[0]]);
        let mut containers = Containers {
            compose,
            ids,
            network,
            failed: Vec::new(),
        };
        for (node, name) in NODES.iter().enumerate() {
            let mut looks = 0;
            while !containers.is_ready(node) {
                looks += 1;
                assert!(looks < READY_LOOKS_MAX, "{name} is not ready");
                std::thread::sleep(LOOK);
            }
        }
        Some(containers)
    }

    /// Has Docker start so many further nodes, and does not wait for them.
    pub fn scale(&self, more: usize) {
        let scale = format!("{MORE}={more}");
        (self.compose).run(&["up", "--detach", "--scale", &scale]);
    }

    /// Makes the containers of the further nodes anew: with their data, and with other names and addresses.
    pub fn renew_more(&self, more: usize) {
        let before = self.more();
        let scale = format!("{MORE}={more}");
        let anew = ["up", "--detach", "--no-deps", "--force-recreate"];
        (self.compose).run(&[&anew[..], &["--scale", &scale, MORE]].concat());
        let after = self.more();
        assert_eq!(after.len(), more);
        assert!(after.iter().all(|id| !before.contains(id)), "{before:?}");
    }

    /// Ids of the containers of further nodes.
    fn more(&self) -> Vec<String> {
        let ids = self.compose.run(&["ps", "--quiet", MORE]);
        ids.lines().map(str::to_owned).collect()
    }

    /// Panics if a node ended by itself or badly, or panicked.
    pub fn assert_never_failed(mut self) {
        for (node, name) in NODES.iter().enumerate() {
            self.note_restarts(node);
            let log = self.compose.run(&["logs", "--no-color", name]);
            assert!(!log.contains("panicked"), "{name} panicked");
        }
        for id in self.more() {
            let count = docker(&["inspect", "--format", "{{.RestartCount}}", &id]);
            let log = docker(&["logs", "--tail", LOG_LINES, &id]);
            assert_eq!(count, "0", "{id} ended by itself: {log}");
        }
        assert!(self.failed.is_empty(), "{:?}", self.failed);
    }

    /// Docker counts how often it started a container again, until a command starts it.
    fn note_restarts(&mut self, node: usize) {
        let count = docker(&["inspect", "--format", "{{.RestartCount}}", &self.ids[node]]);
        if count != "0" {
            (self.failed).push(format!("{} ended by itself {count} times", NODES[node]));
        }
    }
}

impl Held for Containers {
    fn endpoints(&self) -> Vec<String> {
        (0..NODES.len()).map(|i| local(CLIENT_PORT, i)).collect()
    }

    fn kinds(&self) -> Vec<Kind> {
        vec![
            Kind::Kill,
            Kind::KillAll,
            Kind::Pause,
            Kind::Restart,
            Kind::Cut,
        ]
    }

    fn begin(&mut self, fault: &Fault) {
        let id = self.ids[fault.node].clone();
        match fault.kind {
            Kind::Kill => {
                self.note_restarts(fault.node);
                docker(&["kill", &id]);
            }
            Kind::KillAll => {
                (0..NODES.len()).for_each(|node| self.note_restarts(node));
                let ids = self.ids.iter().map(String::as_str);
                docker(&std::iter::once("kill").chain(ids).collect::<Vec<_>>());
            }
            Kind::Pause => drop(docker(&["pause", &id])),
            Kind::Restart => {
                self.note_restarts(fault.node);
                docker(&["stop", &id]);
                let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", &id]);
                if code != "0" {
                    (self.failed).push(format!(
                        "{} ended with {code} when told to stop",
                        NODES[fault.node]
                    ));
                }
            }
            Kind::Cut => drop(docker(&["network", "disconnect", &self.network, &id])),
            Kind::FullDisk => unreachable!("not one of the kinds"),
        }
    }

    fn end(&mut self, fault: &Fault) {
        let (id, name) = (&self.ids[fault.node], NODES[fault.node]);
        match fault.kind {
            Kind::Kill | Kind::Restart => drop(docker(&["start", id])),
            Kind::KillAll => {
                let ids = self.ids.iter().map(String::as_str);
                docker(&std::iter::once("start").chain(ids).collect::<Vec<_>>());
            }
            Kind::Pause => drop(docker(&["unpause", id])),
            Kind::Cut => {
                let network = self.network.as_str();
                docker(&["network", "connect", "--alias", name, network, id]);
            }
            Kind::FullDisk => unreachable!("not one of the kinds"),
        }
    }

    /// Docker itself starts again what ends by itself, and counts it.
    fn tend(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// The first process of a container does not even see SIGTERM before it asks for it: by the time of this answer it has.
    fn is_running(&mut self, node: usize) -> bool {
        http::status(&local(HTTP_PORT, node), "/livez") == Some(200)
    }

    fn is_ready(&mut self, node: usize) -> bool {
        http::status(&local(HTTP_PORT, node), "/readyz") == Some(200)
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}",
                self.compose
                    .try_run(&["logs", "--no-color", "--tail", LOG_LINES])
                    .1
            );
        }
        self.compose.down();
    }
}

fn local(port: u16, node: usize) -> String {
    format!("127.0.0.1:{}", port + node as u16)
}

/// Runs `docker`, which must succeed; gives what it printed, without the end of the line.
fn docker(args: &[&str]) -> String {
    let (done, words) = output(Command::new("docker").args(args));
    assert!(done, "docker {args:?}: {words}");
    words
}

/// Whether a command succeeded, and what it printed: on its standard output if so, else on both.
fn output(command: &mut Command) -> (bool, String) {
    match command.output() {
        Ok(output) => {
            let mut words = output.stdout;
            if !output.status.success() {
                words.extend(output.stderr);
            }
            let words = String::from_utf8_lossy(&words).trim().to_owned();
            (output.status.success(), words)
        }
        Err(error) => (false, error.to_string()),
    }
}

/// The command of compose: a plug-in of `docker`, or the older program.
struct Compose(&'static [&'static str]);

impl Compose {
    fn find() -> Option<Compose> {
        let answers = |words: &[&str]| output(Command::new(words[0]).args(&words[1..])).0;
        if !answers(&["docker", "info"]) {
            return None;
        }
        if answers(&["docker", "compose", "version"]) {
            return Some(Compose(&["docker", "compose"]));
        }
        answers(&["docker-compose", "version"]).then_some(Compose(&["docker-compose"]))
    }

    fn try_run(&self, args: &[&str]) -> (bool, String) {
        let mut command = Command::new(self.0[0]);
        command
            .args(&self.0[1..])
            .args(["--project-name", PROJECT])
            .args(args)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .env("RINGFORT_IMAGE", IMAGE);
        for (i, node) in NODES.iter().enumerate() {
            let name = node.to_uppercase();
            let [client, http] = [CLIENT_PORT, HTTP_PORT].map(|port| port + i as u16);
            command
                .env(format!("RINGFORT_{name}_PORT"), client.to_string())
                .env(format!("RINGFORT_{name}_HTTP_PORT"), http.to_string())
                .env(format!("RINGFORT_{name}_CLIENT"), local(CLIENT_PORT, i));
        }
        output(&mut command)
    }

    fn run(&self, args: &[&str]) -> String {
        let (done, words) = self.try_run(args);
        assert!(done, "{:?} {args:?}: {words}", self.0);
        words
    }

    /// Removes all that this project ever made; it may be nothing.
    fn down(&self) {
        let (done, words) = self.try_run(&["down", "--volumes", "--rmi", "all"]);
        if !done {
            eprintln!("the containers of project {PROJECT} may still be there: {words}");
        }
    }
}
