//! Everything at once with large values: connections that write them, append to them, read them one by one, several in a command, and as
//! ranges. Each kind alone is bounded by a budget of its own; this shows what they come to together.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::cases::{Target, packed};
use crate::Failed;
use crate::clock::now;
use crate::random::Random;
use crate::resp;

const CONNECTIONS: u64 = 4;
const KEYS: u64 = 12;
const VALUE_BYTES: usize = 4 << 20;
const APPENDED_BYTES: usize = 1 << 20;
/// What a node answers instead where an answer would be too much, or memory has no room for now.
const REFUSALS: [&str; 3] = ["-TRYAGAIN", "-ERR the answer would be over", "-ERR value would have"];

/// Asks for so long; the bytes that were sent.
pub(super) fn ask(target: Target, each: Duration) -> Result<u64, Failed> {
    let ask = |seed| std::thread::spawn(move || one(target.connect()?, each, Random::new(seed)));
    let asking: Vec<_> = (0..CONNECTIONS).map(ask).collect();
    let mut sent = 0;
    for one in asking {
        sent += one.join().map_err(|_| Failed::new("a client panicked"))??;
    }
    Ok(sent)
}

fn one(mut stream: TcpStream, each: Duration, mut random: Random) -> Result<u64, Failed> {
    let mut answers = BufReader::with_capacity(1 << 20, stream.try_clone()?);
    // One that does not pack.
    let mut value = vec![0; VALUE_BYTES];
    random.fill(&mut value);
    let (began, mut sent) = (now(), 0);
    while began.elapsed() < each {
        let request = request(&mut random, &value);
        stream.write_all(&request)?;
        sent += request.len() as u64;
        skip_answer(&mut answers)?;
    }
    Ok(sent)
}

/// The keys lie all over the store, so that every core has some.
fn key(n: u64) -> Vec<u8> {
    let first = u8::try_from(n * 21).unwrap_or(u8::MAX);
    [&[first][..], b":abuse:mixed"].concat()
}

fn request(random: &mut Random, value: &[u8]) -> Vec<u8> {
    let one = key(random.below(KEYS));
    match random.below(9) {
        0..=2 => packed(&[b"SET", &one, value]),
        3 | 4 => packed(&[b"APPEND", &one, &value[..APPENDED_BYTES]]),
        5 | 6 => packed(&[b"GET", &one]),
        7 => {
            let keys: Vec<_> = (0..KEYS).map(key).collect();
            let words: Vec<&[u8]> =
                [&b"MGET"[..]].into_iter().chain(keys.iter().map(Vec::as_slice)).collect();
            packed(&words)
        }
        _ => packed(&[b"RANGE", &one, &key(KEYS)]),
    }
}

/// Reads an answer to its end.
pub(super) fn skip_answer(answers: &mut BufReader<TcpStream>) -> Result<(), Failed> {
    let mut left: u64 = 1;
    while left > 0 {
        left -= 1;
        let line = resp::line(answers)?;
        let number = line.get(1..).and_then(|number| number.parse::<i64>().ok()).unwrap_or(-1);
        let number = u64::try_from(number).unwrap_or(0);
        match line.as_bytes().first() {
            Some(b'+' | b':' | b'_') => {}
            Some(b'*') => left += number,
            Some(b'$') if line == "$-1" => {}
            Some(b'$') => skip(answers, number + 2)?,
            Some(b'-') if REFUSALS.iter().any(|refusal| line.starts_with(refusal)) => {}
            Some(_) | None => return Err(Failed::new(format!("answered {line:?}"))),
        }
    }
    Ok(())
}

fn skip(answers: &mut BufReader<TcpStream>, bytes: u64) -> Result<(), Failed> {
    let skipped = std::io::copy(&mut answers.take(bytes), &mut std::io::sink())?;
    if skipped < bytes {
        return Err(Failed::new("the node ended a connection in the middle of an answer"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_request_comes_and_keys_lie_far_apart() {
        let (mut random, value) = (Random::new(1), vec![b'v'; VALUE_BYTES]);
        let mut kinds = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let request = request(&mut random, &value);
            let text = String::from_utf8_lossy(&request[..request.len().min(40)]).into_owned();
            kinds.extend(text.split("\r\n").nth(2).map(str::to_owned));
        }
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["APPEND", "GET", "MGET", "RANGE", "SET"]);
        assert_eq!((key(0)[0], key(KEYS)[0]), (0, 252));
    }
}
