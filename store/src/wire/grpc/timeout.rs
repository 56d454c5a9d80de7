//! The `grpc-timeout` header: at most eight digits and a unit.

use std::time::Duration;

use http::HeaderValue;

/// Maximum timeout that gets a timer; a longer one is treated as none.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Returns how long the caller waits, or `None` for an invalid header.
pub(crate) fn parse(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0u64, |count, digit| count * 10 + u64::from(digit - b'0'));
    let timeout = match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    };
    Some(timeout.min(TIMEOUT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_bounds() {
        let parse = |text| parse(&HeaderValue::from_static(text));
        assert_eq!(parse("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse("9n"), Some(Duration::from_nanos(9)));
        assert_eq!(parse("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse("99999999H"), Some(TIMEOUT_MAX));
        for bad in ["", "S", "1", "1x", "-1S", "123456789S", "1 S"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
