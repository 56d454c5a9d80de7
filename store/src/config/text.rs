//! Values as people write them: sizes, durations, switches.

use std::time::Duration;

/// Unit names, larger first, with their size in bytes.
const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Reads a size: a number of bytes, or a number with a unit, such as `64MiB` or `64M`. Units are powers of 1024.
///
/// # Errors
/// What would be accepted.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let number: u64 = text[..digits].replace('_', "").parse().map_err(|_| expected_size(text))?;
    let unit = text[digits..].trim().to_ascii_lowercase();
    let factor = match unit.as_str() {
        "" | "b" => 1,
        unit => {
            let named = |name: &str| {
                let full = name.to_ascii_lowercase();
                unit == full || unit == &full[..1] || unit == [&full[..1], "b"].concat()
            };
            UNITS.iter().find(|(name, _)| named(name)).ok_or_else(|| expected_size(text))?.1
        }
    };
    number.checked_mul(factor).ok_or_else(|| format!("\"{text}\" is larger than any file"))
}

fn expected_size(text: &str) -> String {
    format!("\"{text}\" is not a size: write bytes, or a number with KiB, MiB, GiB or TiB, such as 64MiB")
}

/// Writes a size in the largest unit that divides it.
pub fn format_bytes(bytes: u64) -> String {
    UNITS
        .iter()
        .find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size))
        .map_or_else(|| bytes.to_string(), |(name, size)| format!("{}{name}", bytes / size))
}

/// Reads a duration: `30s`, `500ms`, `2m`, or a bare number of seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let expected = || format!("\"{text}\" is not a duration: write 500ms, 30s or 2m");
    let number: u64 = text[..digits].parse().map_err(|_| expected())?;
    match text[digits..].trim() {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs).ok_or_else(expected),
        _ => Err(expected()),
    }
}

/// Writes a duration as [`parse_duration`] reads it.
pub(super) fn format_duration(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_as_they_are_written() {
        for bytes in [0, 1, 1023, 1024, 4096, 64 << 20, (64 << 20) + 1, 3 << 30, 1 << 40] {
            assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }
    }

    #[test]
    fn sizes_take_the_usual_spellings() {
        for text in ["64MiB", "64M", "64mb", " 64 mib ", "67108864", "67_108_864", "67108864B"] {
            assert_eq!(parse_bytes(text), Ok(64 << 20), "{text}");
        }
        for text in ["", "MiB", "64 apples", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_back_as_they_are_written() {
        for ms in [0, 1, 999, 1000, 30_000, 90_500] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("soon").is_err());
    }
}
