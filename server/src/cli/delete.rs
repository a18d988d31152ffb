//! `ringfort delete`.

use serde_json::json;

use super::{
    Cli,
    client::{self, Reach},
    exit::{CliError, Exit},
    key::KeyArg,
    out::Out,
    runtime,
};

/// `ringfort delete`: deletes what the context covers; without one, what is there now.
#[derive(Debug, clap::Args)]
pub struct Delete {
    /// The key.
    #[command(flatten)]
    key: KeyArg,
    /// Delete what this context covers, in base64; without it the key is read first
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
    /// Copies that must be durable before the answer
    #[arg(short, long, value_name = "COPIES")]
    w: Option<u32>,
    /// Owners only: no other node may hold a hint for one
    #[arg(long)]
    strict: bool,
    /// Keep nothing of it, so that it cannot be undeleted
    #[arg(long)]
    purge: bool,
    /// How to reach the nodes.
    #[command(flatten)]
    reach: Reach,
}

/// Deletes one key.
///
/// # Errors
/// As the client's, by exit code.
pub fn run(delete: &Delete, cli: &Cli, out: Out) -> Result<Exit, CliError> {
    let key = delete.key.bytes()?;
    let context = delete.context.as_deref().map(client::context).transpose()?;
    runtime()?.block_on(async {
        let client = delete.reach.client(cli, &delete.key.namespace)?;
        let mut call = client.delete(key);
        if let Some(context) = context {
            call = call.context(context);
        }
        if let Some(w) = delete.w {
            call = call.w(w);
        }
        if delete.purge {
            call = call.purge();
        }
        if delete.strict {
            call = call.strict(true);
        }
        let deleted = call.await?;
        if out.json {
            out.value(&json!({
                "found": deleted.found,
                "siblings": deleted.siblings,
                "evidence": client::evidence_json(deleted.evidence),
            }))?;
        } else if deleted.siblings > 0 {
            out.say(&format!(
                "{} values are left that the context did not cover",
                deleted.siblings
            ));
        }
        if deleted.found == Some(false) {
            if !out.json {
                out.say("not found");
            }
            return Ok(Exit::NotFound);
        }
        Ok(Exit::Done)
    })
}
