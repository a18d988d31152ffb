//! The types of settings: each reads itself from one text, wherever the text came from, and shows itself for
//! `serve --check-config`.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use serde_json::{Value as Json, json};

/// A type that a setting can have.
pub trait Setting: Sized {
    /// Reads the value; the error is a sentence without the setting's name.
    ///
    /// # Errors
    /// What is wrong with the text, and what is expected.
    fn parse(text: &str) -> Result<Self, String>;
    /// The value as JSON; its text form is read by [`Setting::parse`] again.
    fn show(&self) -> Json;
}

impl Setting for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
    fn show(&self) -> Json {
        json!(self)
    }
}

impl Setting for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(PathBuf::from(text))
    }
    fn show(&self) -> Json {
        json!(self.display().to_string())
    }
}

impl Setting for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" | "" => Ok(false),
            _ => Err(format!("`{text}` is neither true nor false")),
        }
    }
    fn show(&self) -> Json {
        json!(self)
    }
}

macro_rules! number_setting {
    ($($type:ty, $what:literal;)*) => {$(
        impl Setting for $type {
            fn parse(text: &str) -> Result<Self, String> {
                text.replace('_', "").parse().map_err(|_| format!(concat!("`{}` is not ", $what), text))
            }
            fn show(&self) -> Json {
                json!(self)
            }
        }
    )*};
}

number_setting! {
    u32, "a whole number";
    u64, "a whole number";
    usize, "a whole number";
    f64, "a number";
}

/// A number of bytes, written as `64MiB`, `1GiB`, `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const BYTE_UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
    ("", 1),
];

impl ByteSize {
    /// As a size in memory.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let factor = BYTE_UNITS.iter().find(|(name, _)| *name == unit);
        let (Ok(number), Some((_, factor))) = (number.parse::<u64>(), factor) else {
            return Err(format!(
                "`{text}` is not a size in bytes such as 64MiB, 1GiB or 4096"
            ));
        };
        number
            .checked_mul(*factor)
            .map(ByteSize)
            .ok_or_else(|| format!("`{text}` is more bytes than there are"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Setting for ByteSize {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
    fn show(&self) -> Json {
        json!(self.to_string())
    }
}

impl Setting for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        parse_duration(text)
    }
    fn show(&self) -> Json {
        json!(show_duration(*self))
    }
}

const DURATION_UNITS: &[(&str, u64)] = &[
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// Reads `500ms`, `60s`, `2m`, `1h`, `7d`. The unit is required: a bare number has meant too many things.
///
/// # Errors
/// The text is not a whole number with one of the units, or more than 500 years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let factor = DURATION_UNITS.iter().find(|(name, _)| *name == unit);
    let (Ok(number), Some((_, factor))) = (number.parse::<u64>(), factor) else {
        return Err(format!(
            "`{text}` is not a duration such as 500ms, 60s, 2m, 1h or 7d"
        ));
    };
    number
        .checked_mul(*factor)
        .filter(|micros| *micros <= MAX_DURATION_US)
        .map(Duration::from_micros)
        .ok_or_else(|| format!("`{text}` is longer than 500 years"))
}

/// The longest duration that is accepted, in microseconds.
const MAX_DURATION_US: u64 = 500 * 366 * 86_400_000_000;

fn show_duration(duration: Duration) -> String {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    DURATION_UNITS
        .iter()
        .take(3)
        .rev()
        .find(|(_, factor)| micros.is_multiple_of(*factor))
        .map_or_else(
            || format!("{micros}us"),
            |(unit, factor)| format!("{}{unit}", micros / factor),
        )
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// The port; 0 asks the system for one.
    pub port: u16,
}

impl HostPort {
    /// Whether the host is the address that means "all interfaces", which nobody can dial.
    pub fn is_unspecified(&self) -> bool {
        self.host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_unspecified())
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not host:port");
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) => {
                inner.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
                inner
            }
            None => host,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || (bracketed.is_none() && !host.chars().all(plain)) {
            return Err(bad());
        }
        Ok(HostPort {
            host: host.to_owned(),
            port: port.parse().map_err(|_| bad())?,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Setting for HostPort {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
    fn show(&self) -> Json {
        json!(self.to_string())
    }
}

impl Setting for Option<HostPort> {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some)
    }
    fn show(&self) -> Json {
        json!(self.as_ref().map_or_else(String::new, HostPort::to_string))
    }
}

/// One entry of `--initial`: `name=host:port`, the port being the peer port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InitialMember {
    /// The node's name.
    pub name: String,
    /// Its peer address.
    pub peer: HostPort,
}

impl Setting for Vec<InitialMember> {
    fn parse(text: &str) -> Result<Self, String> {
        entries(text)
            .map(|entry| {
                let (name, peer) = entry
                    .split_once('=')
                    .ok_or_else(|| format!("`{entry}` is not name=host:port"))?;
                Ok(InitialMember {
                    name: name.trim().to_owned(),
                    peer: peer.trim().parse()?,
                })
            })
            .collect()
    }
    fn show(&self) -> Json {
        json!(
            self.iter()
                .map(|m| format!("{}={}", m.name, m.peer))
                .collect::<Vec<_>>()
        )
    }
}

impl Setting for Vec<HostPort> {
    fn parse(text: &str) -> Result<Self, String> {
        entries(text).map(str::parse).collect()
    }
    fn show(&self) -> Json {
        json!(self.iter().map(HostPort::to_string).collect::<Vec<_>>())
    }
}

fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_what_they_show() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1GiB", 1 << 30),
            ("4097", 4097),
            ("3 KiB", 3 << 10),
            ("5kB", 5000),
        ] {
            let size: ByteSize = text.parse().expect(text);
            assert_eq!(size.0, bytes, "{text}");
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        for (text, micros) in [
            ("500ms", 500_000),
            ("60s", 60_000_000),
            ("2m", 120_000_000),
            ("7us", 7),
            ("0s", 0),
        ] {
            let duration = parse_duration(text).expect(text);
            assert_eq!(duration.as_micros(), micros, "{text}");
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "5 parsecs",
            "99999999999999999999s",
            "600000d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "x", "-1", "5 MiBs", "99999999999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        for text in [
            "",
            "host",
            "host:",
            ":7400",
            "host:99999",
            "ho st:1",
            "[x]:1",
            "a:b:1",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
        for text in ["n0", "n0=", "n0=host", "=n0"] {
            assert!(Vec::<InitialMember>::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_keep_their_brackets() {
        let addr: HostPort = "[::1]:7400".parse().expect("IPv6");
        assert_eq!(addr.host, "::1");
        assert_eq!(addr.to_string(), "[::1]:7400");
        assert!("[::]:1".parse::<HostPort>().expect("IPv6").is_unspecified());
        assert!(
            "0.0.0.0:1"
                .parse::<HostPort>()
                .expect("IPv4")
                .is_unspecified()
        );
        assert!(
            !"localhost:1"
                .parse::<HostPort>()
                .expect("name")
                .is_unspecified()
        );
    }
}
