//! The deadline of a unary call, as gRPC carries it.

use std::time::Duration;

use ringfort_proto::{Failure, Reason};
use tonic::metadata::MetadataMap;

/// The header that carries it.
const HEADER: &str = "grpc-timeout";
/// Digits of its number, at most (by the protocol).
const DIGITS_MAX: usize = 8;

/// The time that a caller gives.
///
/// # Errors
/// `NO_DEADLINE` without one; `BAD_REQUEST` if it is none.
pub(super) fn of_call(metadata: &MetadataMap) -> Result<Duration, Failure> {
    let Some(value) = metadata.get(HEADER) else {
        return Err(Failure::new(
            Reason::NoDeadline,
            "every call has a deadline; set one (grpc-timeout)",
        ));
    };
    let bad = || Failure::new(Reason::BadRequest, "grpc-timeout is no number and unit");
    parse(value.to_str().map_err(|_| bad())?).ok_or_else(bad)
}

/// Reads `digits unit`, the unit being one of `H M S m u n`.
fn parse(text: &str) -> Option<Duration> {
    let (at, unit) = text.char_indices().next_back()?;
    let digits = &text[..at];
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(number * 3600),
        'M' => Duration::from_secs(number * 60),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        let table = [
            ("1S", Some(Duration::from_secs(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("2M", Some(Duration::from_secs(120))),
            ("", None),
            ("S", None),
            ("5", None),
            ("-5S", None),
            ("+5S", None),
            ("123456789m", None),
            ("5é", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_call_without_a_deadline_is_refused() {
        let failure = of_call(&MetadataMap::new()).expect_err("no deadline");
        assert_eq!(failure.reason, Reason::NoDeadline);
    }
}
