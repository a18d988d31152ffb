//! `ringfort get`.

use serde_json::json;

use super::{
    Cli,
    client::{self, Reach},
    exit::{CliError, Exit},
    key::KeyArg,
    out::Out,
    runtime,
};

/// `ringfort get`: writes the exact bytes of the value and nothing else.
#[derive(Debug, clap::Args)]
pub struct Get {
    /// The key.
    #[command(flatten)]
    key: KeyArg,
    /// Copies that must answer
    #[arg(short, long, value_name = "COPIES")]
    r: Option<u32>,
    /// Owners only: no other node may hold a hint for one
    #[arg(long)]
    strict: bool,
    /// With --json: also print values that were deleted lately
    #[arg(long)]
    deleted: bool,
    /// How to reach the nodes.
    #[command(flatten)]
    reach: Reach,
}

/// Reads one key. With `--json` all siblings; without it, exactly one value.
///
/// # Errors
/// Exit 7 without `--json`: there are several. Else as the client's.
pub fn run(get: &Get, cli: &Cli, out: Out) -> Result<Exit, CliError> {
    let key = get.key.bytes()?;
    if get.deleted && !out.json {
        return Err(CliError::usage(
            "--deleted needs --json: `undelete` brings a value back",
        ));
    }
    runtime()?.block_on(async {
        let client = get.reach.client(cli, &get.key.namespace)?;
        let mut call = client.get(key);
        if let Some(r) = get.r {
            call = call.r(r);
        }
        if get.strict {
            call = call.strict(true);
        }
        let read = call.deleted(get.deleted).await?;
        if out.json {
            let siblings: Vec<_> = read.siblings().iter().map(|s| client::value_json(&s.value)).collect();
            let mut answer = json!({
                "found": read.is_found(),
                "siblings": siblings,
                "context": client::context_json(read.context()),
                "evidence": client::evidence_json(read.evidence()),
            });
            if get.deleted {
                let deleted = read.deleted().iter().map(|value| client::value_json(value));
                answer["deleted"] = deleted.collect();
            }
            out.value(&answer)?;
            return Ok(if read.is_found() { Exit::Done } else { Exit::NotFound });
        }
        match read.siblings() {
            [] => {
                out.say("not found");
                Ok(Exit::NotFound)
            }
            [only] => {
                out.bytes(&only.value)?;
                Ok(Exit::Done)
            }
            several => Err(CliError::new(
                Exit::Siblings,
                "SEVERAL_SIBLINGS",
                format!(
                    "{} values stand side by side: `get --json` shows them, and `put --context` with its context \
                     makes them one",
                    several.len()
                ),
            )),
        }
    })
}
