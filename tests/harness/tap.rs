//! Counts the messages by which nodes change the layout, where they are sent and where they arrive, and ends a node exactly there.
//!
//! A boundary is the moment before a question is sent, after it arrived, before the answer is sent, or after that arrived: the node that is
//! there may end, and nobody hears of what it was about to say. What is a question of which kind is read off the bytes: HTTP/2 frames, whose
//! headers name the call.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures::{FutureExt, StreamExt, future::BoxFuture};
use ringfort::net::{Conn, Listener, Net};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::net::SimNet;

/// What is counted, by the last part of the call's path.
pub const CALLS: [&str; 4] = ["Vote", "Decrees", "Transfer", "Gossip"];
/// What comes before it.
const PATH: &str = "/ringfort.peer.v1.Peer/";
/// How a connection begins, from the side that dialed.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// The header of a frame.
const FRAME: usize = 9;
/// The type of a frame of headers.
const HEADERS: u8 = 1;

#[derive(Debug, Default)]
struct State {
    is_on: bool,
    /// Boundaries so far, of each call.
    counted: BTreeMap<&'static str, u64>,
    total: u64,
    /// The boundary where the node ends, counted from 1.
    end_at: Option<u64>,
    ended: Option<String>,
}

/// What all taps of a run share.
#[derive(Debug, Clone, Default)]
pub struct Tap(Arc<Mutex<State>>);

impl Tap {
    /// Counts, and ends the node that is at this boundary, counted from 1.
    pub fn new(end_at: Option<u64>) -> Tap {
        let state = State {
            end_at,
            ..State::default()
        };
        Tap(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts from now on, or no more.
    pub fn turn(&self, on: bool) {
        self.state().is_on = on;
    }

    /// Boundaries so far, by call.
    pub fn counted(&self) -> BTreeMap<&'static str, u64> {
        self.state().counted.clone()
    }

    /// The node that has come to its boundary: it hears and says nothing any more, and is to be ended. Told once.
    pub fn take_ended(&self) -> Option<String> {
        let mut state = self.state();
        let ended = state.ended.take();
        state.end_at = state.end_at.filter(|_| ended.is_none());
        ended
    }

    fn is_ended(&self, node: &str) -> bool {
        self.state().ended.as_deref() == Some(node)
    }

    /// Whether `node` ends at one of the boundaries to come.
    fn ends_at(&self, node: &str, coming: usize) -> bool {
        let mut state = self.state();
        let last = state.total + coming as u64;
        let is_here = |end_at: u64| (state.total + 1..=last).contains(&end_at);
        let ends = state.is_on && state.end_at.is_some_and(is_here);
        if ends {
            state.ended = Some(node.to_owned());
        }
        ends
    }

    fn count(&self, calls: &[&'static str]) {
        let mut state = self.state();
        if state.is_on {
            state.total += calls.len() as u64;
            for call in calls {
                *state.counted.entry(call).or_default() += 1;
            }
        }
    }
}

/// The simulated network as the node `name` uses it, tapped.
pub struct TapNet {
    name: String,
    tap: Tap,
}

impl TapNet {
    /// See there.
    pub fn new(name: &str, tap: &Tap) -> TapNet {
        TapNet {
            name: name.to_owned(),
            tap: tap.clone(),
        }
    }
}

impl Net for TapNet {
    fn bind(&self, addr: &str) -> BoxFuture<'static, io::Result<Listener>> {
        let (bound, name, tap) = (SimNet.bind(addr), self.name.clone(), self.tap.clone());
        async move {
            let listener = bound.await?;
            let incoming = listener
                .incoming
                .map(move |conn| conn.map(|conn| Tapped::around(conn, false, &name, &tap)));
            Ok(Listener {
                local_addr: listener.local_addr,
                incoming: incoming.boxed(),
            })
        }
        .boxed()
    }

    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Conn>> {
        let (connected, name, tap) = (SimNet.connect(addr), self.name.clone(), self.tap.clone());
        async move {
            let conn = connected.await?;
            Ok(Tapped::around(conn, true, &name, &tap))
        }
        .boxed()
    }
}

/// One side of a connection.
struct Tapped {
    conn: Conn,
    name: String,
    tap: Tap,
    /// What was read, and what was written.
    read: Frames,
    written: Frames,
    /// What runs on which stream, as its question named it.
    running: BTreeMap<u32, &'static str>,
    dialed: bool,
}

impl Tapped {
    fn around(conn: Conn, dialed: bool, name: &str, tap: &Tap) -> Conn {
        let tapped = Tapped {
            conn,
            name: name.to_owned(),
            tap: tap.clone(),
            read: Frames::new(if dialed { 0 } else { PREFACE }),
            written: Frames::new(if dialed { PREFACE } else { 0 }),
            running: BTreeMap::new(),
            dialed,
        };
        Conn::new(tapped, None)
    }

    /// The calls whose questions, or answers, begin with these headers.
    fn calls(&mut self, headers: Vec<Headers>, are_questions: bool) -> Vec<&'static str> {
        let of = |headers: Headers| match are_questions {
            true => {
                let call = headers.call?;
                self.running.insert(headers.stream, call);
                Some(call)
            }
            // An answer may end with headers of its own; those are no boundary.
            false => self.running.remove(&headers.stream),
        };
        headers.into_iter().filter_map(of).collect()
    }
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.tap.is_ended(&self.name) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.conn).poll_read(cx, buf);
        let headers = self.read.feed(&buf.filled()[before..]);
        let are_questions = !self.dialed;
        let calls = self.calls(headers, are_questions);
        if self.tap.ends_at(&self.name, calls.len()) {
            buf.set_filled(before);
            return Poll::Pending;
        }
        self.tap.count(&calls);
        read
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.tap.is_ended(&self.name) {
            return Poll::Pending;
        }
        let (are_questions, running) = (self.dialed, self.running.clone());
        let headers = self.written.clone().feed(bytes);
        let coming = self.calls(headers, are_questions).len();
        self.running = running;
        if self.tap.ends_at(&self.name, coming) {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.conn).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = written {
            let headers = self.written.feed(&bytes[..count]);
            let calls = self.calls(headers, are_questions);
            self.tap.count(&calls);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_shutdown(cx)
    }
}

/// A frame of headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Headers {
    stream: u32,
    /// Which of [`CALLS`] they name.
    call: Option<&'static str>,
}

/// The frames of one direction of a connection, cut out of its bytes.
#[derive(Debug, Clone)]
struct Frames {
    /// Bytes that are no frames, still to come.
    skip: usize,
    /// The frame that is not whole yet.
    begun: Vec<u8>,
}

impl Frames {
    fn new(skip: usize) -> Frames {
        Frames {
            skip,
            begun: Vec::new(),
        }
    }

    /// The frames of headers that these bytes complete.
    fn feed(&mut self, bytes: &[u8]) -> Vec<Headers> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.begun.extend_from_slice(&bytes[skipped..]);
        let (mut headers, mut at) = (Vec::new(), 0);
        while let Some(frame) = self.begun.get(at..at + FRAME) {
            let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
            let kind = frame[3];
            let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
            let Some(payload) = self.begun.get(at + FRAME..at + FRAME + length) else {
                break;
            };
            if kind == HEADERS {
                let call = CALLS.into_iter().find(|call| names(payload, call));
                headers.push(Headers { stream, call });
            }
            at += FRAME + length;
        }
        self.begun.drain(..at);
        headers
    }
}

/// Whether a block of headers has the path of this call: a string of its own there, as no path is ever indexed.
fn names(block: &[u8], call: &str) -> bool {
    let path = huffman(&format!("{PATH}{call}"));
    block.windows(path.len()).any(|bytes| bytes == path)
}

/// A string as HPACK packs it (RFC 7541, appendix B), of the characters that paths of calls are made of.
fn huffman(text: &str) -> Vec<u8> {
    let (mut packed, mut bits, mut count) = (Vec::new(), 0_u64, 0_u32);
    for byte in text.bytes() {
        let (code, length) = code(byte);
        (bits, count) = (bits << length | code, count + length);
        while count >= 8 {
            count -= 8;
            packed.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        // Padded with ones.
        packed.push((bits << (8 - count)) as u8 | (0xff >> count));
    }
    packed
}

fn code(byte: u8) -> (u64, u32) {
    const FIVE: &[u8] = b"012aceiost";
    const SIX: &[u8] = b" %-./3456789=A_bdfghlmnpru";
    const SEVEN: &[u8] = b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz";
    let place = |of: &[u8]| of.iter().position(|known| *known == byte).map(|i| i as u64);
    if let Some(i) = place(FIVE) {
        return (i, 5);
    }
    if let Some(i) = place(SIX) {
        return (0x14 + i, 6);
    }
    match place(SEVEN) {
        Some(i) => (0x5c + i, 7),
        None => panic!("{byte} is in no path of a call"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_packed_as_the_examples_of_rfc_7541_are() {
        let packed = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(huffman("www.example.com"), packed);
        assert_eq!(huffman("no-cache"), [0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]);
    }

    #[test]
    fn frames_are_cut_out_however_the_bytes_come() {
        let path = huffman("/ringfort.peer.v1.Peer/Vote");
        let mut bytes = vec![b'x'; PREFACE];
        bytes.extend([0, 0, 2, 4, 0, 0, 0, 0, 0, 7, 7]);
        bytes.extend([0, 0, path.len() as u8, HEADERS, 4, 0, 0, 0, 5]);
        bytes.extend(&path);
        let expected = Headers {
            stream: 5,
            call: Some("Vote"),
        };
        for step in 1..bytes.len() {
            let mut frames = Frames::new(PREFACE);
            let found: Vec<Headers> = bytes
                .chunks(step)
                .flat_map(|part| frames.feed(part))
                .collect();
            assert_eq!(found, [expected], "in parts of {step}");
        }
    }
}
