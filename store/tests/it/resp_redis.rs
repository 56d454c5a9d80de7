//! Redis and this server are asked the same, drawn from a seed, and answer alike.
//!
//! `RINGKEEP_SEEDS=1000 cargo test -p ringkeep-store --test it resp_redis` asks more. Where there is no `redis-server` nothing is compared.

use crate::resp_scripts::{RedisServer, skip};
use crate::resp_server::{Conversation, Random, TestServer, config, packed};

/// Commands of one seed.
const COMMANDS: usize = 400;

type Words = Vec<Vec<u8>>;

fn words(line: &str) -> Words {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// One more word, of any bytes.
fn with(line: &str, word: Vec<u8>) -> Words {
    let mut words = words(line);
    words.push(word);
    words
}

fn pick<'a>(random: &mut Random, all: &[&'a str]) -> &'a str {
    all[random.below(all.len())]
}

fn key(random: &mut Random) -> String {
    format!("k{}", random.below(5))
}

/// Mostly places in and around short values.
fn place(random: &mut Random) -> String {
    match random.below(12) {
        0 => pick(random, &["-9223372036854775808", "9223372036854775807", "-4294967297", "4294967296"])
            .to_owned(),
        1 => pick(random, &["9223372036854775808", "x", "1.5", "+1", "01", "-0"]).to_owned(),
        _ => (random.below(26) as i64 - 13).to_string(),
    }
}

fn value(random: &mut Random) -> Vec<u8> {
    match random.below(6) {
        0 => random.below(1000).to_string().into_bytes(),
        1 => number(random).into_bytes(),
        2 => vec![0xff; random.below(12)],
        3 => (0..random.below(20)).map(|_| random.next() as u8).collect(),
        4 => Vec::new(),
        _ => pick(random, &["hello", "a longer text", "\0\0\0", "0"]).into(),
    }
}

/// Of a time option or command: far away, or long ago. By the clocks of both sides it is one or the other.
fn time(random: &mut Random, form: &str) -> String {
    let (far, ago): (&[&str], &[&str]) = match form {
        "EX" => (&["100000", "200000", "9000000"], &["-1", "-100000"]),
        "PX" => (&["100000000", "200000000"], &["-1", "-100000000"]),
        "EXAT" => (&["33177117420", "33177117421"], &["1", "1600000000"]),
        _ => (&["33177117420001", "33177117421499", "33177117421500"], &["1", "1600000000001"]),
    };
    match random.below(12) {
        0 => pick(random, &["0", "-9223372036854775808", "9223372036854775807", "x", "1.5", ""]).to_owned(),
        1 | 2 => pick(random, ago).to_owned(),
        _ => pick(random, far).to_owned(),
    }
}

/// A command that sets or returns when a key expires.
fn expiry(random: &mut Random) -> Words {
    let one = key(random);
    let form = pick(random, &["EX", "PX", "EXAT", "PXAT"]);
    let time = time(random, form);
    let line = match random.below(12) {
        0..=3 => {
            let name = match form {
                "EX" => "EXPIRE",
                "PX" => "PEXPIRE",
                "EXAT" => "EXPIREAT",
                _ => "PEXPIREAT",
            };
            let when =
                pick(random, &["", "", "", " NX", " XX", " GT", " LT", " xx lt", " XX GT", " NX XX", " FOO"]);
            format!("{name} {one} {time}{when}")
        }
        4 | 5 => {
            let condition = pick(random, &["", "", "", " NX", " XX", " GET", " XX GET", " NX GET"]);
            let order = random.below(2) == 0;
            let (first, second) = match random.below(6) {
                0 => (" KEEPTTL".to_owned(), condition),
                1 => (format!(" KEEPTTL {form} {time}"), condition),
                _ => (format!(" {form} {time}"), condition),
            };
            if order {
                format!("SET {one} 12{first}{second}")
            } else {
                format!("SET {one} 12{second}{first}")
            }
        }
        6 => match form {
            "EX" => format!("SETEX {one} {time} 7"),
            "PX" => format!("PSETEX {one} {time} 7"),
            _ => format!("SETEX {one} 300000 7"),
        },
        7 => match random.below(3) {
            0 => format!("GETEX {one} PERSIST"),
            1 => format!("GETEX {one}"),
            _ => format!("GETEX {one} {form} {time}"),
        },
        8 => format!("PERSIST {one}"),
        _ => format!("{} {one}", pick(random, &["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"])),
    };
    words(&line)
}

fn number(random: &mut Random) -> String {
    let exponent = random.below(40) as i64 - 20;
    match random.below(9) {
        0 => {
            pick(random, &["1e4932", "-1e4932", "1e-4950", "inf", "-inf", "0x1.8p3", ".5", "5.", "+7", "-0"])
                .to_owned()
        }
        1 => pick(random, &["nan", "1e4933", "1e-4970", "", "1 ", "1e", "e5", "0x", "1.2.3"]).to_owned(),
        2 => format!("{}e{exponent}", random.next() as i64),
        3 => format!("{}.{}e{exponent}", random.below(100), random.next()),
        4 => (random.next() as i64).to_string(),
        _ => format!("{}.{}", random.below(2000) as i64 - 1000, random.below(1000)),
    }
}

/// A command about keys that has a place in a transaction, too.
fn data(random: &mut Random) -> Words {
    let (one, other) = (key(random), key(random));
    let unit = pick(random, &["", "", " BIT", " BYTE", " bit"]);
    if random.below(3) == 0 {
        return expiry(random);
    }
    let line = match random.below(30) {
        command @ 0..=3 => {
            let name = ["SET", "APPEND", "SETNX", "GETSET"][command];
            return with(&format!("{name} {one}"), value(random));
        }
        4 | 5 => {
            let line = format!("SETRANGE {one} {}", place(random));
            return with(&line, value(random));
        }
        6 => format!("GET {one}"),
        7 => format!("GETDEL {one}"),
        8 => format!("STRLEN {one}"),
        9 => format!("{} {one}", pick(random, &["INCR", "DECR"])),
        10 => format!("{} {one} {}", pick(random, &["INCRBY", "DECRBY"]), place(random)),
        11 | 12 => return with(&format!("INCRBYFLOAT {one}"), number(random).into_bytes()),
        13 | 14 => {
            format!("{} {one} {} {}", pick(random, &["GETRANGE", "SUBSTR"]), place(random), place(random))
        }
        15 => format!("SETBIT {one} {} {}", random.below(90), random.below(2)),
        16 => format!("SETBIT {one} {} {}", place(random), pick(random, &["0", "1", "2", "-1", "x"])),
        17 => format!("GETBIT {one} {}", place(random)),
        18 => format!("BITCOUNT {one}"),
        19 => {
            format!("BITCOUNT {one} {} {}{unit}", random.below(30) as i64 - 15, random.below(30) as i64 - 15)
        }
        20 => format!("BITPOS {one} {}", random.below(2)),
        21 => format!("BITPOS {one} {} {}", random.below(2), random.below(30) as i64 - 15),
        22 => format!(
            "BITPOS {one} {} {} {}{unit}",
            random.below(2),
            random.below(30) as i64 - 15,
            random.below(30) as i64 - 15
        ),
        23 => format!("RENAME {one} {other}"),
        24 => format!("RENAMENX {one} {other}"),
        25 => format!(
            "COPY {one} {other}{}",
            pick(random, &["", "", " REPLACE", " DB 0", " replace db 0", " FOO", " DB"])
        ),
        26 => format!("{} {one} {other} {one}", pick(random, &["MGET", "EXISTS", "TOUCH"])),
        27 => format!("MSETNX {one} 1 {other} {}", pick(random, &["2", "3 k1", "3 k1 4"])),
        28 => format!("MSET {one} abc {other} 12"),
        _ => format!("{} {one} {other}", pick(random, &["DEL", "UNLINK"])),
    };
    words(&line)
}

/// One that is wrong, or that walks.
fn other(random: &mut Random) -> Words {
    // Of a key that is not there Redis 7.0 says nothing wrong, whatever is asked of it.
    words(pick(
        random,
        &[
            "KEYS *",
            "KEYS k?",
            "KEYS k[1-3]",
            "KEYS nothing*",
            "KEYS",
            "RANDOMKEY",
            "RANDOMKEY x",
            "DBSIZE",
            "BITCOUNT base 0",
            "BITCOUNT base 0 -1 FOO",
            "BITCOUNT base x 1",
            "BITCOUNT base 0 1 BIT 2",
            "BITPOS base",
            "BITPOS base 2",
            "BITPOS base x",
            "BITPOS base 1 x",
            "BITPOS base 1 0 x",
            "BITPOS base 1 0 1 FOO",
            "BITPOS base 1 0 1 BIT 2",
            "SETRANGE base -1 x",
            "SETRANGE base 1",
            "SETRANGE base 536870912 x",
            "SETRANGE base 9223372036854775807 x",
            "SETBIT base 4294967296 1",
            "SETBIT base -1 1",
            "GETBIT base 67108864",
            "GETBIT base 67108863",
            "GETRANGE base 0",
            "RENAME base",
            "COPY base base",
            "COPY base base REPLACE",
            "COPY base k1 DB 99",
            "COPY base k1 DB x",
            "TOUCH",
            "MSETNX k1",
            "INCRBYFLOAT base 1",
            "INCRBYFLOAT base",
        ],
    ))
}

/// What is to be sent together.
fn burst(random: &mut Random) -> Vec<Words> {
    let some = |random: &mut Random| -> Vec<Words> {
        let count = random.below(6);
        (0..count).map(|_| data(random)).collect()
    };
    match random.below(6) {
        0 => vec![other(random)],
        1 => {
            let watch = format!("WATCH {} {}", key(random), key(random));
            let mut burst = vec![words(&watch)];
            burst.extend(some(random).into_iter().take(2));
            burst.push(words("MULTI"));
            burst.extend(some(random));
            burst.push(words("EXEC"));
            burst
        }
        _ => some(random),
    }
}

/// A reply without what is a matter of order or chance.
fn plain(command: &[u8], reply: String) -> String {
    match command {
        b"KEYS" if reply.starts_with('[') => {
            let mut names: Vec<&str> = reply[1..reply.len() - 1].split(", ").collect();
            names.sort_unstable();
            names.join(" ")
        }
        b"RANDOMKEY" if reply.starts_with('"') => "a key".to_owned(),
        // Redis counts what has expired until it comes by it.
        b"DBSIZE" if reply.starts_with(':') => "a count".to_owned(),
        _ => reply,
    }
}

/// Whether two replies say the same of times, of which some count from the moment of the command: those may be seconds apart.
fn is_alike(found: &str, expected: &str) -> bool {
    let parts = |text: &str| -> Vec<String> {
        let mut parts = vec![String::new()];
        for letter in text.chars() {
            let ends = parts
                .last()
                .unwrap()
                .chars()
                .last()
                .is_some_and(|last| last.is_ascii_digit() != letter.is_ascii_digit());
            if ends {
                parts.push(String::new());
            }
            parts.last_mut().unwrap().push(letter);
        }
        parts
    };
    let (found, expected) = (parts(found), parts(expected));
    let near = |(found, expected): (&String, &String)| {
        found == expected
            || match (found.parse::<u64>(), expected.parse::<u64>()) {
                (Ok(found), Ok(expected)) => {
                    let slack = if expected > 50_000_000 { 20_000 } else { 20 };
                    expected > 50_000 && found.abs_diff(expected) < slack
                }
                _ => false,
            }
    };
    found.len() == expected.len() && found.iter().zip(&expected).all(near)
}

fn compare(seed: u64, redis: &mut Conversation, here: &mut Conversation) {
    let mut random = Random(engine::rt::rng::Rng::new(seed));
    for both in [&mut *redis, &mut *here] {
        both.ask(&[b"FLUSHALL"]);
        both.ask(&[b"SET", b"base", b"a base of all"]);
        both.ask(&[b"HELLO", if seed.is_multiple_of(2) { b"2" } else { b"3" }]);
    }
    let mut asked = 0;
    let mut said = Vec::new();
    while asked < COMMANDS {
        let burst = burst(&mut random);
        let bytes: Vec<u8> = burst
            .iter()
            .flat_map(|words| packed(&words.iter().map(Vec::as_slice).collect::<Vec<_>>()))
            .collect();
        redis.send(&bytes);
        here.send(&bytes);
        for words in &burst {
            let shown: Vec<String> = words.iter().map(|word| word.escape_ascii().to_string()).collect();
            said.push(shown.join(" "));
            let (expected, found) = (plain(&words[0], redis.reply()), plain(&words[0], here.reply()));
            let before = &said[said.len().saturating_sub(30)..];
            let tells =
                [&b"TTL"[..], b"PTTL", b"EXPIRETIME", b"PEXPIRETIME", b"EXEC"].contains(&&words[0][..]);
            let alike = found == expected || tells && is_alike(&found, &expected);
            assert!(alike, "seed {seed}, found {found} and expected by Redis {expected}, after {before:#?}");
        }
        asked += burst.len();
    }
}

#[test]
fn random_commands_are_answered_as_redis_answers_them() {
    let Some(redis) = RedisServer::start() else {
        return skip("redis-server is not installed");
    };
    let mut at_redis = redis.connect();
    // Its smaller bound makes it say what is said here of values that would be too long.
    assert_eq!(at_redis.ask(&[b"CONFIG", b"SET", b"proto-max-bulk-len", b"8388608"]), "+OK");
    let server = TestServer::start(config());
    let mut here = server.connect();
    let seeds = std::env::var("RINGKEEP_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    (0..seeds).for_each(|seed| compare(seed, &mut at_redis, &mut here));
}

#[test]
fn the_longest_values_have_the_bounds_of_redis() {
    let Some(redis) = RedisServer::start() else {
        return skip("redis-server is not installed");
    };
    let mut at_redis = redis.connect();
    assert_eq!(at_redis.ask(&[b"CONFIG", b"SET", b"proto-max-bulk-len", b"8388608"]), "+OK");
    let server = TestServer::start(config());
    let mut here = server.connect();
    for line in [
        "SETRANGE big 8388600 123456789",
        "SETRANGE big 8388600 12345678",
        "SETRANGE big 8388608 x",
        "STRLEN big",
        "SETBIT big 67108864 1",
        "SETBIT big 67108863 1",
        "BITCOUNT big",
        "BITCOUNT big 0 67108859 BIT",
        "BITPOS big 1",
        "BITPOS big 0 8388600",
        "BITPOS big 0 -1 -1",
        "GETRANGE big -9 -1",
        "GETBIT big 67108863",
        "SETBIT other 67108863 1",
        "BITPOS other 1",
        "COPY big other",
        "COPY big other REPLACE",
        "RENAME big other",
        "STRLEN other",
    ] {
        let words = words(line);
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        assert_eq!(here.ask(&words), at_redis.ask(&words), "{line}");
    }
}

/// Arity, first key, last key and step.
fn described(reply: &str) -> Option<(String, Vec<String>)> {
    let (head, rest) = reply.strip_prefix("[[")?.split_once(", [")?;
    let (_, rest) = rest.split_once("], ")?;
    let keys = rest.split(", ").take(3).map(ToOwned::to_owned).collect();
    Some((head.to_owned(), keys))
}

#[test]
fn commands_are_described_as_redis_describes_them() {
    let Some(redis) = RedisServer::start() else {
        return skip("redis-server is not installed");
    };
    let (mut at_redis, server) = (redis.connect(), TestServer::start(config()));
    let mut here = server.connect();
    let (mut compared, mut unlike) = (0, Vec::new());
    for spec in &store::wire::resp::command::SPECS {
        let ask = |of: &mut Conversation| described(&of.ask(&[b"COMMAND", b"INFO", spec.name.as_bytes()]));
        let (found, expected) = (ask(&mut here), ask(&mut at_redis));
        assert!(found.is_some(), "{}", spec.name);
        // There the keys are those of the parts.
        let has_parts = !store::wire::resp::subcommand::parts(spec.command).is_empty();
        if let Some(expected) = expected.filter(|_| !has_parts) {
            compared += 1;
            unlike.extend((found.as_ref() != Some(&expected)).then_some((found, expected)));
        }
    }
    assert!(compared > 55, "{compared} are compared");
    for spec in &store::wire::resp::command::SPECS {
        let ask = |of: &mut Conversation| {
            let said = of.ask(&[b"COMMAND", b"DOCS", spec.name.as_bytes()]);
            said.split_once("\"group\", ").map(|(_, rest)| rest.split(['"', ',']).nth(1).unwrap().to_owned())
        };
        let (found, expected) = (ask(&mut here), ask(&mut at_redis));
        assert!(
            expected.is_none() || found == expected,
            "{} is {found:?} here and {expected:?} there",
            spec.name
        );
    }
    assert!(unlike.is_empty(), "{unlike:#?}");
}
