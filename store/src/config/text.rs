//! Values in their human-readable form: sizes, durations, switches.

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

/// Maximum CPU number in a list.
const CPU_MAX: usize = 4095;

/// Reads a list of CPUs as the kernel writes it: `2-5,7`. Ascending, each once.
pub(super) fn parse_cpus(text: &str) -> Result<Vec<usize>, String> {
    let expected = || format!("\"{text}\" is not a list of CPUs: write 2-5,7");
    let number = |text: &str| match text.trim().parse() {
        Ok(cpu @ 0..=CPU_MAX) => Ok(cpu),
        Ok(cpu) => Err(format!("CPU {cpu} is above {CPU_MAX}")),
        Err(_) => Err(expected()),
    };
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(expected());
        }
        cpus.extend(first..=last);
    }
    let named = cpus.len();
    cpus.sort_unstable();
    cpus.dedup();
    if cpus.len() == named { Ok(cpus) } else { Err(format!("\"{text}\" names a CPU twice")) }
}

/// Writes a list of CPUs as [`parse_cpus`] reads it.
pub(super) fn format_cpus(cpus: &[usize]) -> String {
    let runs = cpus.chunk_by(|one, next| one + 1 == *next);
    let run = |run: &[usize]| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    runs.map(run).collect::<Vec<_>>().join(",")
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Checks what is to be logged: a level, or directives such as `info,store=debug`. A word that is no level would be read as the
/// name of a module further on, and turn off everything else.
pub(super) fn parse_log_directives(text: &str) -> Result<String, String> {
    for directive in text.split(',') {
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (Some(target.trim()), level.trim()),
            None => (None, directive.trim()),
        };
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            return Err(format!("\"{level}\" is not one of {}", LEVELS.join(", ")));
        }
        let names_a_module = |target: &str| {
            !target.is_empty() && target.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c))
        };
        if target.is_some_and(|target| !names_a_module(target)) {
            return Err(format!("\"{directive}\" names no module: write info,store=debug"));
        }
    }
    Ok(text.to_owned())
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
    fn lists_of_cpus_read_back_as_they_are_written() {
        for (text, cpus) in [("3", vec![3]), ("2-5,7", vec![2, 3, 4, 5, 7]), ("0-1,8-9", vec![0, 1, 8, 9])] {
            assert_eq!(parse_cpus(text), Ok(cpus.clone()));
            assert_eq!(format_cpus(&cpus), text);
        }
        assert_eq!(parse_cpus("7,2-3"), Ok(vec![2, 3, 7]));
        for text in ["", "a", "5-2", "1,1", "0-2,1", "-3", "1-", "0-99999", "99999"] {
            assert!(parse_cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_levels_are_levels() {
        for text in ["info", "WARN", "off", "info,store=debug", "warn, store::shard = trace", "debug,h2=off"]
        {
            assert_eq!(parse_log_directives(text).as_deref(), Ok(text));
        }
        for text in ["loud", "", "info,loud", "store=loud", "=info", "info,", "a b=info", "store"] {
            assert!(parse_log_directives(text).is_err(), "{text}");
        }
        assert!(parse_log_directives("loud").is_err_and(|said| said.contains("off, error, warn")));
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
