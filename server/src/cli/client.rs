//! What all commands share that speak to nodes: the client, its settings, and its errors as the command line's.

use std::time::Duration;

use ringfort_client::{Client, Context, Error, Evidence, Kind};
use serde_json::{Value as Json, json};

use super::{
    Cli, encoding,
    exit::{CliError, Exit},
};
use crate::config::parse_duration;

/// How long a command waits for its answer, unless told otherwise; the client tries again within it.
const TIMEOUT: &str = "5s";

/// What to do when no node could be reached at all.
const NOBODY_THERE: &str = "; nothing was changed. `--endpoints` names the nodes to ask, and `ringfort dev` starts some here";

/// How a command reaches the nodes.
#[derive(Debug, Clone, clap::Args)]
pub struct Reach {
    /// How long to wait for each answer, retries included
    #[arg(long, value_name = "DURATION", default_value = TIMEOUT, value_parser = parse_duration)]
    pub timeout: Duration,
}

impl Reach {
    /// A client for the nodes that the command line names, and for one namespace (empty: each call says).
    ///
    /// # Errors
    /// Exit 2: an endpoint or the timeout makes no sense.
    pub fn client(&self, cli: &Cli, namespace: &str) -> Result<Client, CliError> {
        self.client_of(cli.endpoints.iter().map(|e| e.trim()), namespace)
    }

    /// A client for these nodes.
    ///
    /// # Errors
    /// As of [`Self::client`].
    pub fn client_of<E: Into<String>>(
        &self,
        endpoints: impl IntoIterator<Item = E>,
        namespace: &str,
    ) -> Result<Client, CliError> {
        Ok(Client::builder()
            .endpoints(endpoints)
            .timeout(self.timeout)
            .namespace(namespace)
            .build()?)
    }
}

/// A context as it stands on the command line.
///
/// # Errors
/// Exit 2: it is not base64.
pub fn context(text: &str) -> Result<Context, CliError> {
    encoding::unbase64(text)
        .map(Context::from_bytes)
        .map_err(|what| CliError::usage(format!("the context is {what}")))
}

/// A context as it is printed.
pub fn context_json(context: Option<&Context>) -> Json {
    context.map_or(Json::Null, |c| json!(encoding::base64(c.as_bytes())))
}

/// A value as it is printed: the bytes, and the text if they are one.
pub fn value_json(value: &[u8]) -> Json {
    json!({"value": encoding::base64(value), "text": std::str::from_utf8(value).ok()})
}

/// How an answer was earned.
pub fn evidence_json(evidence: Evidence) -> Json {
    json!({
        "owners_asked": evidence.owners_asked,
        "owners_answered": evidence.owners_answered,
        "fallbacks_used": evidence.fallbacks_used,
        "copies_durable": evidence.copies_durable,
    })
}

/// The exit code of a client's error.
fn exit_of(error: &Error) -> Exit {
    if error.is_ambiguous() {
        return Exit::Deadline;
    }
    match error.kind() {
        Kind::Timeout | Kind::OutcomeUnknown => Exit::Deadline,
        Kind::InvalidArgument | Kind::Config => Exit::Usage,
        Kind::Unauthenticated | Kind::PermissionDenied => Exit::Authentication,
        Kind::SeveralSiblings => Exit::Siblings,
        Kind::Unavailable
        | Kind::Transport
        | Kind::Misrouted
        | Kind::Overloaded
        | Kind::RateLimited
        | Kind::DiskFull => Exit::Unavailable,
        _ => Exit::Failed,
    }
}

/// The reason of an error that carries none of the server's.
fn reason_of(error: &Error) -> &'static str {
    match error.reason() {
        Some(reason) => reason.as_str(),
        None => match error.kind() {
            Kind::Timeout => "DEADLINE_EXCEEDED",
            Kind::OutcomeUnknown => "OUTCOME_UNKNOWN",
            Kind::Unavailable => "UNAVAILABLE",
            Kind::Overloaded => "OVERLOADED",
            Kind::WrongCluster => "WRONG_CLUSTER",
            Kind::Unauthenticated => "UNAUTHENTICATED",
            Kind::PermissionDenied => "PERMISSION_DENIED",
            Kind::SeveralSiblings => "SEVERAL_SIBLINGS",
            Kind::Config => "BAD_USAGE",
            Kind::Transport => "TRANSPORT",
            _ => "FAILED",
        },
    }
}

impl From<Error> for CliError {
    fn from(error: Error) -> Self {
        let mut words = error.to_string();
        if error.kind() == Kind::Unavailable && error.failure().is_none() && !error.is_ambiguous() {
            words += NOBODY_THERE;
        }
        let mut cli = CliError::new(exit_of(&error), reason_of(&error), words);
        cli.retryable = error.is_retryable();
        cli.ambiguous = error.is_ambiguous();
        if let Some(failure) = error.failure() {
            for (name, value) in &failure.metadata {
                cli = cli.with(name, value.as_str());
            }
        }
        if let Some(node) = error.node() {
            cli = cli.with("node", node);
        }
        if let Some(after) = error.retry_after() {
            let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            cli = cli.with("retry_after_ms", millis);
        }
        if let Some(current) = error.current() {
            let siblings: Vec<_> = current
                .siblings()
                .iter()
                .map(|s| value_json(&s.value))
                .collect();
            cli = cli
                .with("siblings", siblings)
                .with("context", context_json(current.context()));
        }
        cli
    }
}
