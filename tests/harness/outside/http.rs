//! As little HTTP as it takes to ask a node how it is.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long each part of an answer may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The status code of a GET, or `None` where nothing answers.
pub fn status(addr: &str, path: &str) -> Option<u16> {
    get(addr, path).map(|(status, _)| status)
}

/// Status code and body of a GET.
pub fn get(addr: &str, path: &str) -> Option<(u16, String)> {
    let address = addr.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(READ_TIMEOUT)).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Some((status, body.to_owned()))
}
