//! Base64 (standard, padded) and hexadecimal: how bytes travel through JSON and the command line.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes as base64.
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = u32::from(chunk[0]) << 16
            | u32::from(chunk.get(1).copied().unwrap_or(0)) << 8
            | u32::from(chunk.get(2).copied().unwrap_or(0));
        for place in 0..4 {
            if place <= chunk.len() {
                let index = (group >> (18 - 6 * place)) & 63;
                text.push(char::from(ALPHABET[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// Bytes from base64; white space around it is ignored.
///
/// # Errors
/// The text is not base64, in the one canonical form.
pub fn unbase64(text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    let bad = || "not base64".to_owned();
    if !text.len().is_multiple_of(4) {
        return Err(bad());
    }
    let body = text.trim_end_matches('=');
    if text.len() - body.len() > 2 {
        return Err(bad());
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in body.as_bytes().chunks(4) {
        let mut group = 0_u32;
        for byte in chunk {
            let index = ALPHABET.iter().position(|a| a == byte).ok_or_else(bad)?;
            group = group << 6 | u32::try_from(index).map_err(|_| bad())?;
        }
        group <<= 6 * (4 - chunk.len());
        let whole = group.to_be_bytes();
        let length = chunk.len() - 1;
        if length == 0 || whole[1 + length..].iter().any(|b| *b != 0) {
            return Err(bad());
        }
        bytes.extend_from_slice(&whole[1..=length]);
    }
    Ok(bytes)
}

/// Bytes from hexadecimal digits, of either case.
///
/// # Errors
/// The text is not pairs of hexadecimal digits.
pub fn unhex(text: &str) -> Result<Vec<u8>, String> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err("is not pairs of hexadecimal digits".to_owned());
    }
    (0..text.len())
        .step_by(2)
        .map(|at| {
            let pair = &text[at..at + 2];
            let digits = pair.bytes().all(|b| b.is_ascii_hexdigit());
            u8::from_str_radix(pair, 16)
                .ok()
                .filter(|_| digits)
                .ok_or_else(|| format!("has `{pair}`, which is not a pair of hexadecimal digits"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_standard_one() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
            assert_eq!(unbase64(text), Ok(bytes.as_bytes().to_vec()));
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unbase64(&base64(&all)), Ok(all));
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for text in [
            "Z", "Zg", "Zg=", "Zh==", "Zm9=", "Z===", "====", "Zm9v!!!!", "Zg==Zg==",
        ] {
            assert!(unbase64(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hexadecimal_takes_both_cases() {
        assert_eq!(unhex("00fFA0"), Ok(vec![0, 255, 160]));
        for text in ["0", "0g", "+1", "é0"] {
            assert!(unhex(text).is_err(), "{text}");
        }
    }
}
