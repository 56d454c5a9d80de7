//! Keys as operators see and type them: printable bytes as they are, every other one as `\xNN`. And ids.

/// A key as it is shown, between quotes; `-` for either end of the key space.
pub(super) fn show(key: &[u8]) -> String {
    if key.is_empty() { "-".to_owned() } else { format!("\"{}\"", key.escape_ascii()) }
}

/// The key that a text means, in the form that [`show`] prints between its quotes.
///
/// # Errors
/// Where the text has an escape that is none.
pub(super) fn read(text: &str) -> Result<Vec<u8>, String> {
    let mut key = Vec::with_capacity(text.len());
    let mut left = text.bytes();
    while let Some(byte) = left.next() {
        if byte != b'\\' {
            key.push(byte);
            continue;
        }
        let read = escaped(&mut left);
        key.push(read.ok_or_else(|| {
            format!("\"{text}\" has a \\ that begins no escape: write \\xNN with two hexadecimal digits, or \\\\ for itself")
        })?);
    }
    Ok(key)
}

/// An id that is typed. None is 0, which means none at all between nodes.
///
/// # Errors
/// It is no id.
pub(super) fn id(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("ids begin at 1: `ringkeep ctl regions`, `stores` and `node` list them".to_owned()),
        Ok(id) => Ok(id),
        Err(error) => Err(format!("{error}: an id is a whole number")),
    }
}

/// The byte that an escape means; its backslash has been read.
fn escaped(left: &mut impl Iterator<Item = u8>) -> Option<u8> {
    match left.next()? {
        b'x' => {
            let mut digit = || char::from(left.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            u8::try_from(high * 16 + low).ok()
        }
        b't' => Some(b'\t'),
        b'r' => Some(b'\r'),
        b'n' => Some(b'\n'),
        sign @ (b'\\' | b'\'' | b'"') => Some(sign),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_is_shown_can_be_typed() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        for key in [&all[..], b"user:1", b"\\x", b"a\"b", b"-"] {
            let shown = show(key);
            let inside = shown.strip_prefix('"').and_then(|shown| shown.strip_suffix('"')).expect("quoted");
            assert_eq!(read(inside).as_deref(), Ok(key), "{shown}");
        }
        assert_eq!(show(b""), "-");
        assert_eq!(read("\u{e9}").as_deref(), Ok("\u{e9}".as_bytes()), "bytes of a name stay as they are");
    }

    #[test]
    fn an_id_is_a_whole_number_above_zero() {
        assert_eq!((id("1"), id("18446744073709551615")), (Ok(1), Ok(u64::MAX)));
        assert!(id("0").is_err_and(|why| why.contains("ids begin at 1")));
        for text in ["", "-1", "x", "1.5", "18446744073709551616"] {
            assert!(id(text).is_err_and(|why| why.contains("whole number")), "{text}");
        }
    }

    #[test]
    fn an_escape_that_is_none_is_refused() {
        for text in ["\\", "a\\q", "\\x4", "\\xzz", "\\x"] {
            assert!(read(text).expect_err(text).contains("hexadecimal"), "{text}");
        }
    }
}
