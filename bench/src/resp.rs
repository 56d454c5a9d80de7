//! RESP by blocking calls, for clients on threads of their own.

use std::io::{BufRead, Write};

use crate::Failed;

/// Appends a command.
pub(crate) fn command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    // Writing into a vector cannot fail.
    let _ = write!(out, "*{}\r\n", parts.len());
    for part in parts {
        let _ = write!(out, "${}\r\n", part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// `None` for `+OK` and for the number that DEL returns; the text of an error otherwise.
pub(crate) fn acknowledgement(reading: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let line = line(reading)?;
    match line.as_bytes().first() {
        Some(b'+' | b':') => Ok(None),
        _ => Ok(Some(line)),
    }
}

/// Reads a bulk string, or nothing.
pub(crate) fn bulk(reading: &mut impl BufRead) -> Result<Option<Vec<u8>>, Failed> {
    let line = line(reading)?;
    let length: i64 = line
        .strip_prefix('$')
        .and_then(|length| length.parse().ok())
        .ok_or_else(|| Failed::new(format!("a read was answered with {line}")))?;
    let Ok(length) = usize::try_from(length) else { return Ok(None) };
    let mut value = vec![0; length + 2];
    reading.read_exact(&mut value)?;
    value.truncate(length);
    Ok(Some(value))
}

/// Reads a line without its end.
pub(crate) fn line(reading: &mut impl BufRead) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    reading.read_until(b'\n', &mut bytes)?;
    match bytes.strip_suffix(b"\r\n") {
        Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
        None => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}
