//! The contracts of the command line that need no cluster: exit codes, where words go and where data goes, bad input.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value as Json;

/// Nobody listens there: port 1 is never a node's.
const NOBODY: &str = "127.0.0.1:1";

fn ringfort(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringfort"));
    // Settings of whoever runs the tests must not reach them.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RINGFORT_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    ringfort(args).output().expect("the binary runs")
}

fn exit(output: &Output) -> i32 {
    output.status.code().expect("not killed")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

#[test]
fn help_and_version_are_data_and_succeed() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["help"],
        &["help", "put"],
        &["get", "--help"],
    ] {
        let output = run(args);
        assert_eq!(exit(&output), 0, "{args:?}");
        assert!(!output.stdout.is_empty(), "{args:?}");
        assert_eq!(stderr(&output), "", "{args:?}");
    }
}

#[test]
fn exit_codes_are_told() {
    let output = run(&["help", "exit-codes"]);
    let codes: Vec<&str> = stdout(&output)
        .lines()
        .map(|line| line.split_whitespace().next().expect("a code"))
        .collect();
    assert_eq!(codes, ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[test]
fn bad_usage_exits_2_with_words_on_stderr_only() {
    for args in [
        &["nonsense"][..],
        &[],
        &["help", "nonsense"],
        &["get"],
        &["get", ""],
        &["get", "0g", "--hex"],
        &["put", "k", "v", "--context", "*"],
        &["put", "k", "v", "--ttl", "60"],
        &["put", "k", "v", "-w", "two"],
        &["get", "k", "--endpoints", "not an address"],
        &["get", "k", "--timeout", "0s"],
        &["import", "f", "--format", "xml"],
        &["import", "f", "--format", "tsv", "--separator", ""],
        &["import", "f", "--format", "tsv", "--key-field", "name"],
        &["bench", "walk"],
        &["bench", "put", "--clients", "0"],
        &["dev", "--nodes", "0"],
        &["serve", "--name", "UPPER"],
        &["serve", "--name", "n0", "--client-addr", "0.0.0.0:7400"],
        &["serve", "--name", "n0", "--config", "/no/such/file"],
    ] {
        let output = run(args);
        assert_eq!(exit(&output), 2, "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
        assert_ne!(stderr(&output), "", "{args:?}");
    }
}

#[test]
fn with_json_errors_are_json_on_stdout() {
    for (args, code, reason) in [
        (&["nonsense", "--json"][..], 2, "BAD_USAGE"),
        (&["--json", "get", "0g", "--hex"], 2, "BAD_USAGE"),
        (&["serve", "--name", "UPPER", "--json"], 2, "BAD_CONFIG"),
        (
            &[
                "get",
                "k",
                "--json",
                "--endpoints",
                NOBODY,
                "--timeout",
                "300ms",
            ],
            4,
            "UNAVAILABLE",
        ),
        (
            &["probe", "--json", "--http-addr", NOBODY],
            4,
            "UNAVAILABLE",
        ),
        (
            &["import", "/no/such/file", "--format", "lines", "--json"],
            1,
            "FAILED",
        ),
    ] {
        let output = run(args);
        assert_eq!(exit(&output), code, "{args:?}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{args:?}");
        let json: Json = serde_json::from_slice(&output.stdout).expect("one JSON value");
        assert_eq!(json["error"]["reason"], reason, "{args:?}");
        assert_eq!(json["error"]["exit_code"], code, "{args:?}");
        assert!(json["error"]["message"].is_string() && json["error"]["retryable"].is_boolean());
    }
}

#[test]
fn no_node_is_exit_4_whatever_the_command() {
    for args in [
        &["get", "k"][..],
        &["put", "k", "v"],
        &["delete", "k"],
        &["where", "k"],
        &["status"],
        &[
            "bench",
            "get",
            "--seconds",
            "1",
            "--clients",
            "1",
            "--keys",
            "1",
        ],
    ] {
        let nobody = ["--endpoints", NOBODY, "--timeout", "300ms"];
        let output = run(&[args, &nobody].concat());
        assert_eq!(exit(&output), 4, "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
        // What happened, whether anything changed, what to do: and each of them once.
        let words = stderr(&output);
        assert_eq!(words.matches("cannot reach").count(), 1, "{words}");
        assert!(
            words.contains(NOBODY)
                && words.contains("nothing was changed")
                && words.contains("--endpoints"),
            "{words}"
        );
        assert!(!words.contains("transport error"), "{words}");
    }
}

#[test]
fn a_bad_setting_is_named_with_its_source() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("node.toml");
    fs::write(&path, "name = \"N0\"\ncapacity = \"much\"\n").expect("written");
    let path = path.to_str().expect("text");
    let output = run(&["serve", "--config", path]);
    assert_eq!(
        stderr(&output),
        format!("error: `capacity`: `much` is not a number (file {path}:2)\n")
    );
    let output = run(&["serve", "--config", path, "--capacity", "1"]);
    let words = stderr(&output);
    assert!(
        words.starts_with("error: `name` is `N0`: ") && words.contains(&format!("{path}:1")),
        "{words}"
    );
}

#[test]
fn an_unknown_field_names_file_line_and_neighbour() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("node.toml");
    fs::write(
        &path,
        "name = \"n0\"\n\nclient_adress = \"127.0.0.1:7400\"\n",
    )
    .expect("written");
    let path = path.to_str().expect("text");
    let output = run(&["serve", "--config", path]);
    assert_eq!(exit(&output), 2);
    let words = stderr(&output);
    assert!(words.contains(&format!("{path}:3:")), "{words}");
    assert!(
        words.contains("`client_adress`") && words.contains("`client_addr`"),
        "{words}"
    );
}

#[test]
fn check_config_prints_every_value_with_its_source() {
    let output = ringfort(&["serve", "--check-config", "--json", "--zone", "a"])
        .env("RINGFORT_NAME", "n7")
        .output()
        .expect("the binary runs");
    assert_eq!(exit(&output), 0, "{}", stderr(&output));
    let json: Json = serde_json::from_slice(&output.stdout).expect("one JSON value");
    assert_eq!(json["name"]["value"], "n7");
    assert_eq!(json["name"]["source"], "environment RINGFORT_NAME");
    assert_eq!(json["zone"]["source"], "flag --zone");
    assert_eq!(json["replicas"]["source"], "default");
    // The same as a file: it checks, and means the same.
    let text = run(&["serve", "--check-config", "--name", "n7"]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("node.toml");
    fs::write(&path, &text.stdout).expect("written");
    let again = run(&[
        "serve",
        "--check-config",
        "--config",
        path.to_str().expect("text"),
    ]);
    assert_eq!(exit(&again), 0, "{}", stderr(&again));
    let values = |output: &Output| -> Vec<String> {
        let lines = stdout(output).lines();
        lines
            .map(|l| l.split('#').next().expect("a value").trim().to_owned())
            .collect()
    };
    assert_eq!(values(&text), values(&again));
}

#[test]
fn a_misspelt_variable_is_a_warning() {
    let output = ringfort(&["serve", "--check-config", "--name", "n0"])
        .env("RINGFORT_TABEL_BYTES", "1MiB")
        .output()
        .expect("the binary runs");
    assert_eq!(exit(&output), 0);
    assert!(
        stderr(&output).contains("RINGFORT_TABLE_BYTES"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn output_off_a_terminal_has_no_escapes() {
    for args in [&["--help"][..], &["nonsense"], &["help", "exit-codes"]] {
        let output = run(args);
        assert!(
            !output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b),
            "{args:?}"
        );
    }
}

#[test]
fn a_directory_is_no_file_to_import() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().to_str().expect("text");
    let output = run(&["import", path, "--format", "lines"]);
    assert_eq!(exit(&output), 1);
    assert!(stderr(&output).contains(path), "{}", stderr(&output));
}

#[test]
fn a_busy_port_stops_dev_before_it_starts_anything() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback binds");
    let port = taken.local_addr().expect("bound").port().to_string();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().to_str().expect("text");
    let output = run(&[
        "dev",
        "--nodes",
        "1",
        "--client-port",
        &port,
        "--data-dir",
        data,
    ]);
    // A port near the end leaves no room for the others: that is bad usage.
    assert!(matches!(exit(&output), 1 | 2), "{}", stderr(&output));
    assert!(stderr(&output).contains(&port), "{}", stderr(&output));
    assert!(!dir.path().join("n0").exists());
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("plain");
    fs::File::create(&file)
        .and_then(|mut f| f.write_all(b"x"))
        .expect("written");
    let output = serve_in(&file);
    assert_eq!(exit(&output), 1, "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).contains("plain"), "{}", stderr(&output));
}

/// Runs `serve` in a directory that it cannot use.
fn serve_in(dir: &Path) -> Output {
    run(&[
        "serve",
        "--name",
        "n0",
        "--data-dir",
        dir.to_str().expect("text"),
    ])
}
