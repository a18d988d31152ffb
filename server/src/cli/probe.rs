//! `ringfort probe`: asks a node's HTTP port, so that a container without a shell can check its own health.

use std::{io, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    exit::{CliError, Exit},
    out::Out,
};
use crate::config::{HostPort, parse_duration};

/// `ringfort probe`: exit 0 when the node answers yes, 4 when it does not.
#[derive(Debug, clap::Args)]
pub struct Probe {
    /// The node's HTTP address
    #[arg(
        long,
        env = "RINGFORT_HTTP_ADDR",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7600"
    )]
    http_addr: HostPort,
    /// Ask whether the process lives, instead of whether it is ready
    #[arg(long)]
    live: bool,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    timeout: Duration,
}

/// Asks once.
///
/// # Errors
/// Exit 4: nobody answers there, or the answer is no.
pub fn run(probe: &Probe, out: Out) -> Result<Exit, CliError> {
    let path = if probe.live { "/livez" } else { "/readyz" };
    let mut addr = probe.http_addr.clone();
    if addr.is_unspecified() {
        // A node that listens everywhere also listens on loopback.
        let loopback = if addr.host.contains(':') {
            "::1"
        } else {
            "127.0.0.1"
        };
        addr.host = loopback.to_owned();
    }
    let addr = addr.to_string();
    let answer = super::runtime()?.block_on(ask(&addr, path, probe.timeout));
    match answer {
        Ok((200, _)) => {
            if out.json {
                out.value(&json!({"address": addr, "path": path, "ok": true}))?;
            }
            Ok(Exit::Done)
        }
        Ok((status, body)) => Err(CliError::unavailable(format!(
            "{addr}{path} answers {status}: {}",
            body.trim()
        ))),
        Err(error) => Err(CliError::unavailable(format!(
            "{addr}{path} does not answer: {error}"
        ))),
    }
}

/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// One `GET`; gives status and body.
///
/// # Errors
/// No connection, no answer within `timeout`, or no HTTP.
pub async fn ask(addr: &str, path: &str, timeout: Duration) -> io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream
            .take(MAX_ANSWER_BYTES)
            .read_to_end(&mut answer)
            .await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = tokio::time::timeout(timeout, exchange)
        .await
        .map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing within {timeout:?}"),
            )
        })??;
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not HTTP"))
}

fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split_ascii_whitespace();
    words.next().filter(|w| w.starts_with("HTTP/1."))?;
    Some((words.next()?.parse().ok()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nwait\n";
        assert_eq!(parse(answer), Some((503, "wait\n".to_owned())));
        assert_eq!(parse(b"SSH-2.0\r\n\r\n"), None);
        assert_eq!(parse(b""), None);
    }
}
