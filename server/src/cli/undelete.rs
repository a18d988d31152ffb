//! `ringfort undelete`.

use std::time::Duration;

use ringfort_client::Kind;
use serde_json::json;

use super::{
    Cli,
    client::{self, Reach},
    exit::{CliError, Exit},
    key::KeyArg,
    out::Out,
    runtime,
};
use crate::config::parse_duration;

/// `ringfort undelete`: puts the value back that was deleted last, while nodes keep it.
#[derive(Debug, clap::Args)]
pub struct Undelete {
    /// The key.
    #[command(flatten)]
    key: KeyArg,
    /// How long the value lives from now on; for ever unless given
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Copies that must be durable before the answer
    #[arg(short, long, value_name = "COPIES")]
    w: Option<u32>,
    /// Owners only: no other node may stand in for one
    #[arg(long)]
    strict: bool,
    /// How to reach the nodes.
    #[command(flatten)]
    reach: Reach,
}

/// Brings one value back; prints the new context, if the value is the only one under the key.
///
/// # Errors
/// Exit 3: nothing is kept that could come back. Exit 7: several values are. Exit 1: a value is there. Else as the client's.
pub fn run(undelete: &Undelete, cli: &Cli, out: Out) -> Result<Exit, CliError> {
    let key = undelete.key.bytes()?;
    runtime()?.block_on(async {
        let client = undelete.reach.client(cli, &undelete.key.namespace)?;
        let mut call = client.undelete(key);
        if let Some(ttl) = undelete.ttl {
            call = call.ttl(ttl);
        }
        if let Some(w) = undelete.w {
            call = call.w(w);
        }
        if undelete.strict {
            call = call.strict(true);
        }
        let undeleted = call.await.map_err(|error| match error.kind() {
            Kind::SeveralSiblings => CliError {
                message: "several values were deleted side by side: `get --deleted --json` shows them, and `put --context` with \
                          its context brings one back"
                    .to_owned(),
                ..CliError::from(error)
            },
            _ => error.into(),
        })?;
        let context = client::context_json(undeleted.as_ref().and_then(|w| w.context.as_ref()));
        if out.json {
            out.value(&json!({
                "undeleted": undeleted.is_some(),
                "context": context,
                "siblings": undeleted.as_ref().map_or(0, |w| w.siblings),
                "evidence": undeleted.as_ref().map(|w| client::evidence_json(w.evidence)),
            }))?;
        }
        let Some(written) = undeleted else {
            if !out.json {
                out.say("nothing is kept that could come back");
            }
            return Ok(Exit::NotFound);
        };
        match context.as_str() {
            _ if out.json => {}
            Some(context) => out.line(context)?,
            None => out.say(&format!(
                "{} values stand side by side now: read them, and put one with the context of the read",
                written.siblings
            )),
        }
        Ok(Exit::Done)
    })
}
