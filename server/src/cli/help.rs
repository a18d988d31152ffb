//! `ringfort help [TOPIC]`.

use clap::CommandFactory;

use super::{
    Cli,
    exit::{CliError, Exit},
    out::Out,
};

/// `ringfort help`: of a command, or of a topic.
#[derive(Debug, clap::Args)]
pub struct Help {
    /// A command, or `exit-codes`
    topic: Option<String>,
}

/// Prints the help of a topic.
///
/// # Errors
/// There is no such topic.
pub fn run(help: &Help, out: Out) -> Result<Exit, CliError> {
    let mut root = Cli::command();
    root.build();
    let text = match help.topic.as_deref() {
        None => root.render_help().to_string(),
        Some("exit-codes") => exit_codes(),
        Some(name) => match root.find_subcommand_mut(name) {
            Some(command) => command.render_long_help().to_string(),
            None => return Err(CliError::usage(format!("no help on `{name}`"))),
        },
    };
    out.bytes(text.as_bytes())?;
    Ok(Exit::Done)
}

fn exit_codes() -> String {
    Exit::TABLE
        .iter()
        .map(|(exit, meaning)| format!("{}  {meaning}\n", *exit as u8))
        .collect()
}
