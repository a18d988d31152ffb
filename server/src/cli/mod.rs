//! The command line: one command per file, each a struct of arguments and a `run`.
//!
//! This is the edge: clocks, signals, the environment and processes are taken as they are here, and only here.

pub mod bench;
pub mod client;
pub mod delete;
pub mod dev;
pub mod encoding;
pub mod exit;
pub mod export;
pub mod get;
pub mod help;
pub mod hints;
pub mod import;
pub mod key;
pub mod layout;
pub mod out;
pub mod probe;
mod process;
pub mod progress;
pub mod put;
pub mod repair;
pub mod scrub;
pub mod serve;
pub mod status;
pub mod undelete;
pub mod whereis;

use std::process::ExitCode;

use clap::{Parser, Subcommand, error::ErrorKind};

use exit::{CliError, Exit};
use out::Out;

/// A distributed key-value store server.
#[derive(Debug, Parser)]
#[command(name = "ringfort", version, disable_help_subcommand = true, after_help = FIRST_STEPS)]
pub struct Cli {
    /// Nodes that put, get and the like ask, by client address; any one that answers is enough
    #[arg(
        long,
        global = true,
        env = "RINGFORT_ENDPOINTS",
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        default_value = DEFAULT_ENDPOINT
    )]
    pub endpoints: Vec<String>,
    /// Print JSON, errors included
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Ends the help of the whole.
const FIRST_STEPS: &str = "First steps: `ringfort dev` starts a cluster in ./ringfort-data; `ringfort put greeting hello` writes to it.";

/// Where a client looks for a node unless told otherwise.
const DEFAULT_ENDPOINT: &str = "127.0.0.1:7400";

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node
    Serve(Box<serve::Serve>),

    /// Run a local cluster, one process per node
    Dev(dev::Dev),
    /// Write one value
    Put(put::Put),
    /// Read one key
    Get(get::Get),
    /// Delete one key
    Delete(delete::Delete),
    /// Bring back what was deleted from one key
    Undelete(undelete::Undelete),
    /// Write a file of rows
    Import(import::Import),
    /// Print every key as a line of JSON
    Export(export::Export),
    /// Print on which nodes a key lives
    Where(whereis::Where),
    /// Have all nodes verify what they have stored
    Scrub(scrub::Scrub),
    /// Print the state of the cluster
    Status(status::Status),
    /// Print what nodes hold for owners that are down
    Hints(hints::Hints),
    /// Have all nodes compare what they hold with the other owners now, and mend what differs
    Repair(repair::Repair),
    /// Print the layout, and change it: stage, plan, commit
    Layout(layout::Layout),
    /// Measure operations a second and latencies
    Bench(bench::Bench),
    /// Ask a node whether it lives or is ready; for health checks
    Probe(probe::Probe),
    /// Print help of a command, or `help exit-codes`
    Help(help::Help),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Even an error in the arguments is JSON when JSON was asked for, so this one flag is looked for by hand.
    let json = std::env::args_os().any(|arg| arg == "--json");
    let exit = match Cli::try_parse() {
        Ok(cli) => {
            let out = Out { json: cli.json };
            run(&cli).unwrap_or_else(|error| {
                out.fail(&error);
                error.exit
            })
        }
        Err(error) => refuse(&error, Out { json }),
    };
    ExitCode::from(exit as u8)
}

fn run(cli: &Cli) -> Result<Exit, CliError> {
    let out = Out { json: cli.json };
    match &cli.command {
        Command::Serve(serve) => serve::run(serve, out),

        Command::Dev(dev) => dev::run(dev, out),
        Command::Put(put) => put::run(put, cli, out),
        Command::Get(get) => get::run(get, cli, out),
        Command::Delete(delete) => delete::run(delete, cli, out),
        Command::Undelete(undelete) => undelete::run(undelete, cli, out),
        Command::Import(import) => import::run(import, cli, out),
        Command::Export(export) => export::run(export, cli, out),
        Command::Where(args) => whereis::run(args, cli, out),
        Command::Scrub(scrub) => scrub::run(scrub, cli, out),
        Command::Status(status) => status::run(status, cli, out),
        Command::Hints(hints) => hints::run(hints, cli, out),
        Command::Repair(repair) => repair::run(repair, cli, out),
        Command::Layout(layout) => layout::run(layout, cli, out),
        Command::Bench(bench) => bench::run(bench, cli, out),
        Command::Probe(probe) => probe::run(probe, out),
        Command::Help(help) => help::run(help, out),
    }
}

fn refuse(error: &clap::Error, out: Out) -> Exit {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        let _ = error.print();
        return Exit::Done;
    }
    if out.json {
        out.fail(&CliError::usage(error.to_string().trim_end()));
    } else {
        let _ = error.print();
    }
    Exit::Usage
}

/// A runtime for commands that talk to nodes: one thread, which a client fills well.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("cannot start the runtime: {error}")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_hold_together() {
        Cli::command().debug_assert();
    }
}
