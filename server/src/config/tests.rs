use std::{collections::BTreeMap, io::Write, path::Path};

use super::*;

fn flags(pairs: &[(&str, &str)]) -> Flags {
    let args = pairs
        .iter()
        .map(|(name, value)| format!("--{}={value}", name.replace('_', "-")));
    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        flags: Flags,
    }
    <Only as clap::Parser>::parse_from(std::iter::once("test".to_owned()).chain(args)).flags
}

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn load(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load(&flags(pairs), &BTreeMap::new(), None)
}

fn refused(pairs: &[(&str, &str)]) -> String {
    load(pairs).expect_err("must be refused").to_string()
}

#[test]
fn flags_beat_environment_beats_file_beats_default() {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    write!(file, "name = \"from-file\"\nzone = \"a\"\ncapacity = 2\n").expect("written");
    let config = Config::load(
        &flags(&[("name", "from-flag")]),
        &env(&[("RINGFORT_NAME", "from-env"), ("RINGFORT_ZONE", "b")]),
        Some(file.path()),
    )
    .expect("valid");
    assert_eq!(config.name, "from-flag");
    assert_eq!(config.sources["name"], Source::Flag("name"));
    assert_eq!(config.zone, "b");
    assert_eq!(config.sources["zone"], Source::Env("RINGFORT_ZONE".into()));
    assert_eq!(config.capacity, 2.0);
    assert_eq!(
        config.sources["capacity"],
        Source::File(file.path().into(), 3)
    );
    assert_eq!(config.replicas, 3);
    assert_eq!(config.sources["replicas"], Source::Default);
    assert_eq!(config.data_dir, Path::new("ringfort-data/from-flag"));
}

#[test]
fn the_hosts_name_stands_in_for_a_name_and_wherever_it_is_asked_for() {
    let on = |host: &str, pairs: &[(&str, &str)]| {
        Config::load(&flags(pairs), &env(&[(HOST_NAME_ENV, host)]), None)
    };
    let config = on("ash", &[("peer_advertise", "{hostname}:7500")]).expect("valid");
    assert_eq!(config.name, "ash");
    assert!(config.is_named_by_host());
    assert_eq!(
        config.peer_advertise.expect("given").to_string(),
        "ash:7500"
    );
    assert_eq!(config.data_dir, Path::new("ringfort-data/ash"));
    let config = on("ash", &[("name", "n0")]).expect("valid");
    assert_eq!(
        (config.name.as_str(), config.is_named_by_host()),
        ("n0", false)
    );
    let error = on("Ash.example", &[]).expect_err("no name for a node");
    assert!(error.to_string().contains("pass --name"), "{error}");
    let words = refused(&[("name", "n0"), ("zone", "{hostname}")]);
    assert!(
        words.contains("this host has no name (flag --zone)"),
        "{words}"
    );
}

#[test]
fn what_check_config_prints_is_a_file_with_the_same_meaning() {
    let first = load(&[
        ("name", "n0"),
        ("initial", "n0=a:1,n1=b:2"),
        ("table_bytes", "8MiB"),
        ("drain_timeout", "1500ms"),
        ("auto_join", "true"),
    ])
    .expect("valid");
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    write!(file, "{}", first.report_toml()).expect("written");
    let mut second = Config::load(&Flags::default(), &BTreeMap::new(), Some(file.path()))
        .expect("reads what it printed");
    assert_eq!(
        second.report_json().as_object().map(|o| o.len()),
        Some(NAMES.len())
    );
    second.sources.clone_from(&first.sources);
    assert_eq!(first, second);
}

#[test]
fn a_missing_name_says_how_to_give_one() {
    assert_eq!(
        refused(&[]),
        "`name` is required: pass --name, set RINGFORT_NAME, or write it into the file"
    );
}

#[test]
fn bad_values_are_all_reported_with_their_source() {
    let message = refused(&[("name", "n0"), ("capacity", "much"), ("workers", "-1")]);
    assert_eq!(
        message,
        "`capacity`: `much` is not a number (flag --capacity)\n`workers`: `-1` is not a whole number (flag --workers)"
    );
}

#[test]
fn the_whole_is_judged_once() {
    for (pairs, part) in [
        (&[("name", "N0")][..], "a-z, 0-9 and -"),
        (
            &[("name", "n0"), ("client_addr", "0.0.0.0:7400")],
            "--client-advertise",
        ),
        (
            &[("name", "n0"), ("peer_addr", "0.0.0.0:7500")],
            "--peer-advertise",
        ),
        (
            &[("name", "n0"), ("peer_addr", "127.0.0.1:0")],
            "must name a port",
        ),
        (
            &[("name", "n0"), ("peer_addr", "127.0.0.1:7400")],
            "must differ",
        ),
        (
            &[("name", "n0"), ("initial", "n1=a:1")],
            "does not list this node",
        ),
        (&[("name", "n0"), ("initial", "n0=a:1,n0=b:1")], "twice"),
        (&[("name", "n0"), ("initial", "n0=a:1,n1=a:1")], "twice"),
        (&[("name", "n0"), ("initial", "n0=a:0")], "nobody can dial"),
        (&[("name", "n0"), ("seeds", "0.0.0.0:1")], "nobody can dial"),
        (&[("name", "n0"), ("partitions", "1000")], "power of two"),
        (&[("name", "n0"), ("replicas", "0")], "from 1 to 7"),
        (
            &[("name", "n0"), ("capacity", "0")],
            "a capacity is more than 0",
        ),
        (
            &[("name", "n0"), ("capacity", "NaN")],
            "a capacity is more than 0",
        ),
        (&[("name", "n0"), ("value_bytes", "2MiB")], "from 1 to 1MiB"),
        (&[("name", "n0"), ("siblings", "0")], "from 1 to"),
        (&[("name", "n0"), ("table_bytes", "1KiB")], "from 1MiB"),
        (&[("name", "n0"), ("hello_timeout", "0s")], "more than 0"),
    ] {
        let message = refused(pairs);
        assert!(message.contains(part), "{pairs:?}: {message}");
    }
    load(&[
        ("name", "n0"),
        ("client_addr", "0.0.0.0:7400"),
        ("client_advertise", "n0:7400"),
        ("http_addr", "0.0.0.0:7600"),
    ])
    .expect("advertised");
}

#[test]
fn the_defaults_are_the_limits_of_the_data_path() {
    let config = load(&[("name", "n0")]).expect("valid");
    assert_eq!(config.limits(), crate::limits::Limits::default());
}

#[test]
fn a_misspelt_variable_is_noticed() {
    let env = env(&[
        ("RINGFORT_ENDPOINTS", "a:1"),
        ("RINGFORT_TABEL_BYTES", "1"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(
        unknown_env(&env),
        ["RINGFORT_TABEL_BYTES is not a setting; did you mean RINGFORT_TABLE_BYTES?"]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let missing = Path::new("/no/such/node.toml");
    let error = Config::load(&Flags::default(), &BTreeMap::new(), Some(missing));
    assert!(
        error
            .expect_err("missing")
            .to_string()
            .starts_with("/no/such/node.toml: cannot be read")
    );
}

#[test]
fn connections_leave_files_to_storage() {
    let flags = Flags {
        name: Some("n0".to_owned()),
        ..Flags::default()
    };
    let load = || Config::load(&flags, &BTreeMap::new(), None).expect("defaults");
    let mut config = load();
    assert_eq!(config.fit_open_files(20_000), None);
    assert_eq!(config, load());
    for (open_files, clients, peers) in [(1_024, 480, 160), (10_000, 4_096, 2_404), (64, 1, 1)] {
        let mut config = load();
        let words = config.fit_open_files(open_files).expect("cut");
        assert!(words.contains("ulimit"), "{words}");
        assert_eq!(
            (config.connections, config.peer_connections),
            (clients, peers)
        );
    }
}
