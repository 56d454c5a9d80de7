//! One connection of a client: a command, and what came of it.
//!
//! An answer that was not heard is never taken for a refusal: the command may have been carried out.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Failed;
use crate::resp::{bulk, command, line};

/// How long an answer may take before the connection is given up. Longer than a node looks for a leader.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How long a client waits after a node was not reached or refused.
pub(super) const AFTER_FAILURE: Duration = Duration::from_millis(20);
/// Operations on one connection before another node is chosen.
pub(super) const STAY: u64 = 40;

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Done(Reply),
    /// It was not carried out.
    Refused,
    /// It may have been carried out.
    Unknown,
    /// It was answered with an error that no client should see.
    Wrong(String),
    /// The connection ended, and the request may have been carried out.
    Broken,
}

/// What was answered to a request that was carried out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A simple string.
    Status(String),
    Integer(i64),
    /// A value, or that there is none.
    Value(Option<Vec<u8>>),
    Values(Vec<Option<Vec<u8>>>),
}

pub(super) struct Connection {
    stream: TcpStream,
    reading: BufReader<TcpStream>,
}

impl Connection {
    pub(super) fn open(addr: SocketAddr) -> Result<Self, Failed> {
        let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(1))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let reading = BufReader::new(stream.try_clone()?);
        Ok(Self { stream, reading })
    }

    /// Sends a command and waits for its answer.
    pub(super) fn ask(&mut self, parts: &[&[u8]]) -> Said {
        let mut request = Vec::new();
        command(&mut request, parts);
        if self.stream.write_all(&request).is_err() {
            return Said::Broken;
        }
        answer(&mut self.reading).unwrap_or(Said::Broken)
    }
}

/// Reads one answer; nothing if the connection ends within it.
fn answer(reading: &mut impl BufRead) -> Option<Said> {
    let first = *reading.fill_buf().ok()?.first()?;
    if first == b'$' {
        return Some(Said::Done(Reply::Value(bulk(reading).ok()?)));
    }
    let text = line(reading).ok()?;
    let rest = &text[1..];
    Some(match first {
        b'-' => of_error(&text),
        b'+' => Said::Done(Reply::Status(rest.to_owned())),
        b':' => match rest.parse() {
            Ok(number) => Said::Done(Reply::Integer(number)),
            Err(error) => Said::Wrong(format!("{text}: {error}")),
        },
        b'*' => {
            let Ok(count) = rest.parse::<usize>() else { return Some(Said::Wrong(text)) };
            let values: Option<Vec<_>> = (0..count).map(|_| bulk(reading).ok()).collect();
            Said::Done(Reply::Values(values?))
        }
        _ => Said::Wrong(text),
    })
}

/// What an error says about the request.
fn of_error(text: &str) -> Said {
    let repeatable = ["-CLUSTERDOWN", "-TRYAGAIN", "-LOADING"];
    if repeatable.iter().any(|code| text.starts_with(code)) || text.contains("the store has stopped") {
        Said::Refused
    } else if text.contains("the outcome is unknown") {
        Said::Unknown
    } else {
        Said::Wrong(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_distinguished() {
        let said = |mut bytes: &[u8]| answer(&mut bytes);
        let value = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(said(b"-CLUSTERDOWN region 3 has no leader\r\n"), Some(Said::Refused));
        assert_eq!(said(b"-TRYAGAIN the key's region is moving\r\n"), Some(Said::Refused));
        assert_eq!(said(b"-ERR the outcome is unknown: the write may\r\n"), Some(Said::Unknown));
        assert!(matches!(said(b"-ERR wrong number of arguments\r\n"), Some(Said::Wrong(_))));
        assert_eq!(said(b"+OK\r\n"), Some(Said::Done(Reply::Status("OK".to_owned()))));
        assert_eq!(said(b":-3\r\n"), Some(Said::Done(Reply::Integer(-3))));
        assert!(matches!(said(b":x\r\n"), Some(Said::Wrong(_))));
        assert_eq!(said(b"$-1\r\n"), Some(Said::Done(Reply::Value(None))));
        let two = b"*2\r\n$1\r\na\r\n$-1\r\n";
        assert_eq!(said(two), Some(Said::Done(Reply::Values(vec![value("a"), None]))));
        assert_eq!(said(b"*2\r\n$1\r\na\r\n"), None, "the second value was not heard");
        assert!(matches!(said(b"?\r\n"), Some(Said::Wrong(_))));
    }
}
