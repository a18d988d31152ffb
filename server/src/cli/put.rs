//! `ringfort put`.

use std::{ffi::OsString, io::Read, os::unix::ffi::OsStringExt, time::Duration};

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

/// The most that is read from standard input, in bytes: past it no node takes the value.
const MAX_STDIN_BYTES: u64 = 16 << 20;

/// `ringfort put`: without a context the value stands beside what is there; with one it replaces that.
#[derive(Debug, clap::Args)]
pub struct Put {
    /// The key.
    #[command(flatten)]
    key: KeyArg,
    /// The value, or `-` for standard input
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    value: OsString,
    /// Replace what this context covers: from `get` or an earlier `put`, in base64
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
    /// How long the value lives; for ever unless given
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Copies that must be durable before the answer
    #[arg(short, long, value_name = "COPIES")]
    w: Option<u32>,
    /// Owners only: no other node may hold a hint for one
    #[arg(long)]
    strict: bool,
    /// Write only if the key is not there
    #[arg(long)]
    if_absent: bool,
    /// How to reach the nodes.
    #[command(flatten)]
    reach: Reach,
}

/// Writes one value; prints the new context, if the value is the only one under the key.
///
/// # Errors
/// As the client's, by exit code.
pub fn run(put: &Put, cli: &Cli, out: Out) -> Result<Exit, CliError> {
    let key = put.key.bytes()?;
    let value = value(put)?;
    let context = put.context.as_deref().map(client::context).transpose()?;
    runtime()?.block_on(async {
        let client = put.reach.client(cli, &put.key.namespace)?;
        let mut call = client.put(key, value);
        if let Some(context) = context {
            call = call.context(context);
        }
        if let Some(ttl) = put.ttl {
            call = call.ttl(ttl);
        }
        if let Some(w) = put.w {
            call = call.w(w);
        }
        if put.strict {
            call = call.strict(true);
        }
        if put.if_absent {
            call = call.if_absent();
        }
        let written = call.await?;
        let context = client::context_json(written.context.as_ref());
        if out.json {
            out.value(&json!({
                "context": context,
                "siblings": written.siblings,
                "evidence": client::evidence_json(written.evidence),
            }))?;
        } else if let Some(context) = context.as_str() {
            out.line(context)?;
        } else {
            out.say(&format!(
                "{} values stand side by side now: read them, and put one with the context of the read",
                written.siblings
            ));
        }
        Ok(Exit::Done)
    })
}

fn value(put: &Put) -> Result<Vec<u8>, CliError> {
    if put.value != "-" {
        return Ok(put.value.clone().into_vec());
    }
    let mut value = Vec::new();
    let read = std::io::stdin()
        .take(MAX_STDIN_BYTES + 1)
        .read_to_end(&mut value);
    read.map_err(|error| CliError::failed(format!("standard input cannot be read: {error}")))?;
    if value.len() as u64 > MAX_STDIN_BYTES {
        let words = format!("the value is longer than {MAX_STDIN_BYTES} bytes");
        return Err(CliError::new(Exit::Usage, "TOO_LARGE", words));
    }
    Ok(value)
}
