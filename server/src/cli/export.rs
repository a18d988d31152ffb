//! `ringfort export`: every key as a line of JSON, in token order.

use std::time::Duration;

use futures::TryStreamExt;
use ringfort_client::{Client, Entry, ResumeToken};
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

use super::{
    Cli,
    client::{self, Reach},
    encoding,
    exit::{CliError, Exit},
    out::Out,
    runtime,
};

/// Lines are written in pieces of about this many bytes.
const PIECE_BYTES: usize = 256 << 10;
/// How long the nodes may be unavailable before the export gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause before it goes on after an error.
const PAUSE: Duration = Duration::from_millis(500);

/// Ends the help.
const FORM: &str = "\
A line is {\"namespace\",\"key\",\"key_text\",\"siblings\":[{\"value\",\"text\"}],\"context\"}; key, value and context are base64, and the
texts are null where the bytes are no UTF-8. `import` does not read this form back.";

/// `ringfort export`: lines of
/// `{"namespace","key"(base64),"key_text","siblings":[{"value"(base64),"text"}],"context"}`.
#[derive(Debug, clap::Args)]
#[command(after_help = FORM)]
pub struct Export {
    /// Only this namespace
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// How to reach the nodes.
    #[command(flatten)]
    reach: Reach,
}

/// Writes all keys; goes on where it was after a short outage.
///
/// # Errors
/// As the client's, by exit code; what was written before is whole lines.
pub fn run(args: &Export, cli: &Cli, out: Out) -> Result<Exit, CliError> {
    runtime()?.block_on(async {
        let client = args
            .reach
            .client(cli, args.namespace.as_deref().unwrap_or(""))?;
        let mut token = None;
        let mut failing_since = None;
        loop {
            let before = token.clone();
            let Err(error) = from(&client, &mut token, out).await else {
                return Ok(Exit::Done);
            };
            if token != before {
                failing_since = None;
            }
            let since = *failing_since.get_or_insert_with(Instant::now);
            if !error.retryable || since.elapsed() > PATIENCE {
                return Err(error);
            }
            sleep(PAUSE).await;
        }
    })
}

/// Writes from `token` on, and moves it past what was written.
async fn from(client: &Client, token: &mut Option<ResumeToken>, out: Out) -> Result<(), CliError> {
    let mut scan = client.scan();
    if let Some(token) = &token {
        scan = scan.resume(token);
    }
    let mut piece = String::new();
    loop {
        let next = scan.try_next().await;
        if let Ok(Some(entry)) = &next
            && !entry.siblings.is_empty()
        {
            piece.push_str(&line(entry).to_string());
            piece.push('\n');
        }
        if piece.len() >= PIECE_BYTES || !matches!(next, Ok(Some(_))) {
            out.bytes(piece.as_bytes())?;
            piece.clear();
            *token = Some(scan.resume_token());
        }
        if next?.is_none() {
            return Ok(());
        }
    }
}

fn line(entry: &Entry) -> Json {
    let siblings: Vec<_> = entry
        .siblings
        .iter()
        .map(|s| client::value_json(&s.value))
        .collect();
    json!({
        "namespace": entry.namespace,
        "key": encoding::base64(&entry.key),
        "key_text": std::str::from_utf8(&entry.key).ok(),
        "siblings": siblings,
        "context": client::context_json(entry.context.as_ref()),
    })
}
