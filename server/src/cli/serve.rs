//! `ringfort serve`: one node.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    exit::{CliError, Exit},
    out::Out,
};
use crate::config::{Config, Flags, unknown_env};

/// `ringfort serve`: flags beat environment (`RINGFORT_…`) beats file.
#[derive(Debug, clap::Args)]
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
    let env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let config = Config::load(&serve.flags, &env, serve.config.as_deref())?;
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
    Err(CliError::failed("serving is not wired up yet"))
}
