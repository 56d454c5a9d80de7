//! The Redis protocol from the client's side, as much of it as a load generator needs: answers in order, read for their
//! outcome only.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;

use engine::rt::{Rt, Stream};

use super::{Answer, AnswerResult, Request};
use crate::Failed;

const READ_BYTES: usize = 64 << 10;

/// A RESP connection.
#[derive(Debug)]
pub(super) struct Resp {
    stream: Stream,
    addr: SocketAddr,
    out: Vec<u8>,
    input: Vec<u8>,
    /// Bytes of `input` that are already answered.
    taken: usize,
    tags: VecDeque<u64>,
}

impl Resp {
    pub(super) async fn open(rt: &Rt, addr: SocketAddr, password: Option<&str>) -> Result<Self, Failed> {
        let stream = rt
            .connect(addr)
            .await
            .map_err(|error| Failed::new(format!("cannot connect to {addr}: {error}")))?;
        let (out, input) = (Vec::new(), Vec::with_capacity(READ_BYTES));
        let mut this = Self { stream, addr, out, input, taken: 0, tags: VecDeque::new() };
        if let Some(password) = password {
            this.command(&[b"AUTH", password.as_bytes()]);
            this.tags.push_back(0);
            this.flush().await?;
            let mut answers = Vec::new();
            this.answers(&mut answers).await?;
            if let AnswerResult::Refused(said) = &answers[0].result {
                return Err(Failed::new(format!("{addr} refuses the password: {said}")));
            }
        }
        Ok(this)
    }

    pub(super) fn push(&mut self, tag: u64, request: Request<'_>) {
        match request {
            Request::Get { key } => self.command(&[b"GET", key]),
            Request::Put { key, value } => self.command(&[b"SET", key, value]),
            Request::Scan { start, records } => {
                let limit = records.to_string();
                // The bytes of every key are below 0xff, so this end is after all of them.
                self.command(&[b"RANGE", start, b"\xff", b"LIMIT", limit.as_bytes()]);
            }
        }
        self.tags.push_back(tag);
    }

    fn command(&mut self, parts: &[&[u8]]) {
        header(&mut self.out, b'*', parts.len());
        for part in parts {
            header(&mut self.out, b'$', part.len());
            self.out.extend_from_slice(part);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    pub(super) async fn flush(&mut self) -> Result<(), Failed> {
        if self.out.is_empty() {
            return Ok(());
        }
        let sent = self.stream.write_all(&self.out).await;
        self.out.clear();
        sent.map_err(|error| self.lost(&error.to_string()))
    }

    pub(super) async fn answers(&mut self, into: &mut Vec<Answer>) -> Result<(), Failed> {
        let before = into.len();
        loop {
            self.take_answers(into)?;
            if into.len() > before {
                return Ok(());
            }
            let mut chunk = [0u8; READ_BYTES];
            match self.stream.read(&mut chunk).await {
                Ok(0) => return Err(self.lost("the server closed it")),
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
                Err(error) => return Err(self.lost(&error.to_string())),
            }
        }
    }

    fn take_answers(&mut self, into: &mut Vec<Answer>) -> Result<(), Failed> {
        while !self.tags.is_empty() {
            let parsed = parse(&self.input[self.taken..]).map_err(|what| self.lost(what))?;
            let Some((result, length)) = parsed else { break };
            self.taken += length;
            let tag = self.tags.pop_front().expect("the loop runs while a tag waits");
            into.push(Answer { tag, result });
        }
        if self.taken == self.input.len() {
            self.input.clear();
            self.taken = 0;
        } else if self.taken > READ_BYTES {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        Ok(())
    }

    fn lost(&self, why: &str) -> Failed {
        Failed::new(format!("the connection to {} is lost: {why}", self.addr))
    }
}

fn header(out: &mut Vec<u8>, mark: u8, number: usize) {
    // Writing into a vector cannot fail.
    let _ = write!(out, "{}{number}\r\n", char::from(mark));
}

/// One whole reply at the start of `bytes`, with its length; `None` if it is not whole yet.
fn parse(bytes: &[u8]) -> Result<Option<(AnswerResult, usize)>, &'static str> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let (line, head) = (&bytes[1..end], end + 2);
    match bytes[0] {
        b'+' | b':' | b',' | b'#' | b'(' => Ok(Some((AnswerResult::Done, head))),
        b'_' => Ok(Some((AnswerResult::Missing, head))),
        b'-' => {
            let said = String::from_utf8_lossy(line).into_owned();
            Ok(Some((AnswerResult::Refused(said), head)))
        }
        b'$' => match number(line)? {
            -1 => Ok(Some((AnswerResult::Missing, head))),
            length => {
                let whole = head + usize::try_from(length).map_err(|_| "a negative length")? + 2;
                Ok((bytes.len() >= whole).then_some((AnswerResult::Done, whole)))
            }
        },
        mark @ (b'*' | b'~' | b'%') => {
            let items = number(line)?.max(0) * if mark == b'%' { 2 } else { 1 };
            let mut at = head;
            for _ in 0..items {
                match parse(&bytes[at..])? {
                    Some((_, length)) => at += length,
                    None => return Ok(None),
                }
            }
            Ok(Some((AnswerResult::Done, at)))
        }
        _ => Err("it says what is not RESP"),
    }
}

fn number(line: &[u8]) -> Result<i64, &'static str> {
    std::str::from_utf8(line)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or("it sends a length that is no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_taken_whole_or_not_at_all() {
        let cases: [(&[u8], AnswerResult); 8] = [
            (b"+OK\r\n", AnswerResult::Done),
            (b":12\r\n", AnswerResult::Done),
            (b"$5\r\nhello\r\n", AnswerResult::Done),
            (b"$0\r\n\r\n", AnswerResult::Done),
            (b"$-1\r\n", AnswerResult::Missing),
            (b"_\r\n", AnswerResult::Missing),
            (b"-BUSY try again\r\n", AnswerResult::Refused("BUSY try again".into())),
            (b"*2\r\n*2\r\n$1\r\na\r\n$-1\r\n:1\r\n", AnswerResult::Done),
        ];
        for (bytes, result) in cases {
            for cut in 0..bytes.len() {
                assert_eq!(
                    parse(&bytes[..cut]),
                    Ok(None),
                    "{cut} bytes of {:?}",
                    String::from_utf8_lossy(bytes)
                );
            }
            let more = [bytes, b"+next\r\n"].concat();
            assert_eq!(parse(&more), Ok(Some((result, bytes.len()))));
        }
        assert!(parse(b"HTTP/1.1 400\r\n").is_err());
        assert!(parse(b"$x\r\n").is_err());
    }
}
