//! Connections: order, bounds, ends.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use store::wire::resp::Config;

use crate::resp_server::{Conversation, Random, TestServer, config, packed};

/// One random command and the reply that a map says it has.
fn command(random: &mut Random, map: &mut BTreeMap<String, String>) -> (Vec<Vec<u8>>, String) {
    let key = format!("k{}", random.below(6));
    let other = format!("k{}", random.below(6));
    let value = random.below(1000).to_string();
    let quoted = |value: Option<&String>| value.map_or("(nil)".to_owned(), |value| format!("\"{value}\""));
    let (words, reply): (Vec<&str>, String) = match random.below(12) {
        0 | 1 => {
            map.insert(key.clone(), value.clone());
            (vec!["SET", &key, &value], "+OK".to_owned())
        }
        2 | 3 => (vec!["GET", &key], quoted(map.get(&key))),
        4 => {
            (vec!["MGET", &key, &other], format!("[{}, {}]", quoted(map.get(&key)), quoted(map.get(&other))))
        }
        5 => {
            let existed = usize::from(map.remove(&key).is_some()) + usize::from(map.remove(&other).is_some());
            (vec!["DEL", &key, &other], format!(":{existed}"))
        }
        6 => {
            let sum = map.get(&key).map_or(0, |value| value.parse::<i64>().unwrap()) + 7;
            map.insert(key.clone(), sum.to_string());
            (vec!["INCRBY", &key, "7"], format!(":{sum}"))
        }
        7 => {
            map.insert(key.clone(), value.clone());
            map.insert(other.clone(), value.clone());
            (vec!["MSET", &key, &value, &other, &value], "+OK".to_owned())
        }
        8 => (vec!["DBSIZE"], format!(":{}", map.len())),
        9 => (vec!["PING"], "+PONG".to_owned()),
        10 => {
            let previous = quoted(map.get(&key));
            map.insert(key.clone(), value.clone());
            (vec!["GETSET", &key, &value], previous)
        }
        _ => {
            let keys: Vec<String> = map.keys().map(|key| format!("\"{key}\"")).collect();
            (vec!["RANGE", "", "", "NOVALUES"], format!("[{}]", keys.join(", ")))
        }
    };
    (words.iter().map(|word| word.as_bytes().to_vec()).collect(), reply)
}

#[test]
fn pipelines_are_answered_in_order_however_they_arrive() {
    for seed in 0..30 {
        let mut random = Random(engine::rt::rng::Rng::new(seed));
        let server = TestServer::start(config());
        let mut conversation = server.connect();
        let mut map = BTreeMap::new();
        for _ in 0..20 {
            let (mut bytes, mut replies) = (Vec::new(), Vec::new());
            for _ in 0..1 + random.below(60) {
                let (words, reply) = command(&mut random, &mut map);
                bytes.extend(packed(&words.iter().map(Vec::as_slice).collect::<Vec<_>>()));
                replies.push(reply);
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(1 + random.below(rest.len().min(500)));
                conversation.send(piece);
                rest = after;
            }
            for (number, reply) in replies.iter().enumerate() {
                assert_eq!(conversation.reply(), *reply, "seed {seed}, command {number}");
            }
        }
    }
}

#[test]
fn a_pipeline_longer_than_every_bound_is_answered() {
    let server = TestServer::start(config());
    let mut conversation = server.connect();
    let count = 20_000;
    let value = vec![b'v'; 500];
    let mut sender = conversation.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for number in 0..count {
            let key = (number % 100).to_string();
            sender.write_all(&packed(&[b"SET", key.as_bytes(), &value])).unwrap();
            sender.write_all(&packed(&[b"GET", key.as_bytes()])).unwrap();
        }
    });
    let expected = format!("\"{}\"", "v".repeat(500));
    for _ in 0..count {
        assert_eq!(conversation.reply(), "+OK");
        assert_eq!(conversation.reply(), expected);
    }
    sending.join().unwrap();
    let snapshot = server.stop();
    assert!(snapshot.commands.contains(&("get", count)) && snapshot.commands.contains(&("set", count)));
    assert_eq!(snapshot.latency.iter().map(|(_, latency)| latency.count()).sum::<u64>(), 2 * count);
}

#[test]
fn a_client_that_does_not_listen_is_not_listened_to() {
    let server = TestServer::start(config());
    let mut conversation = server.connect();
    conversation.ask(&[b"SET", b"big", &vec![b'x'; 1 << 20]]);
    conversation.stream.set_nonblocking(true).unwrap();
    // Requests for 10 GiB; the server must stop taking them in long before.
    let requests = packed(&[b"GET", b"big"]).repeat(10_000);
    let (mut sent, mut pings) = (0, 0);
    while pings < 100 {
        // When the sockets are full, the rest is not needed.
        sent += conversation.stream.write(&requests[sent..]).unwrap_or(0);
        // Another connection is served meanwhile, and its reply means that the core has had time for the first.
        assert_eq!(server.connect().ask(&[b"PING"]), "+PONG");
        pings += 1;
    }
    conversation.stream.set_nonblocking(false).unwrap();
    assert!(
        sent / packed(&[b"GET", b"big"]).len() >= 2000,
        "too few requests fit for the test to mean anything"
    );
    for _ in 0..200 {
        assert_eq!(conversation.reply().len(), (1 << 20) + 2);
    }
    drop(conversation);
    let snapshot = server.stop();
    let gets = snapshot.commands.iter().find(|(name, _)| *name == "get").unwrap().1;
    assert!(gets < 2000, "{gets} replies of 1 MiB were made for no reader");
}

#[test]
fn a_half_closed_client_gets_its_answers() {
    let server = TestServer::start(config());
    let mut conversation = server.connect();
    conversation
        .send(&[packed(&[b"SET", b"a", b"1"]), packed(&[b"GET", b"a"]), b"*2\r\n$3\r\nGE".to_vec()].concat());
    conversation.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(conversation.reply(), "+OK");
    assert_eq!(conversation.reply(), "\"1\"");
    assert_eq!(conversation.reply(), "(closed)");
}

#[test]
fn values_and_keys_up_to_the_limit_and_not_beyond() {
    let server = TestServer::start(config());
    let mut conversation = server.connect();
    let value = vec![7; 8 << 20];
    assert_eq!(conversation.ask(&[b"SET", b"big", &value]), "+OK");
    assert_eq!(conversation.ask(&[b"STRLEN", b"big"]), format!(":{}", 8 << 20));
    let key = vec![b'k'; 8 << 10];
    assert_eq!(conversation.ask(&[b"SET", &key, b"1"]), "+OK");
    assert_eq!(conversation.ask(&[b"GET", &key]), "\"1\"");
    let key = vec![b'k'; (8 << 10) + 1];
    let refused = "-ERR key of 8193 bytes, the limit is 8192 bytes";
    assert_eq!(conversation.ask(&[b"SET", &key, b"1"]), refused);
    assert_eq!(conversation.ask(&[b"GET", b"x"]), "(nil)", "the connection goes on");

    // The client hears why although it has sent the whole value before it looks.
    conversation.send(&packed(&[b"SET", b"big", &vec![7; (8 << 20) + 1]]));
    let refused = "-ERR Protocol error: invalid bulk length, 8388609 bytes where at most 8388608 are allowed";
    assert_eq!(conversation.reply(), refused);
    assert_eq!(conversation.reply(), "(closed)");
}

#[test]
fn big_frames_of_every_kind_between_small_ones() {
    let server = TestServer::start(config());
    let mut conversation = server.connect();
    let big = vec![b'b'; 300_000];
    let many: Vec<Vec<u8>> = (0..5000).map(|number| format!("key{number}").into_bytes()).collect();
    let mut mset: Vec<&[u8]> = vec![b"MSET"];
    many.iter().for_each(|key| mset.extend([&key[..], b"v"]));
    let mut del: Vec<&[u8]> = vec![b"DEL"];
    del.extend(many.iter().map(|key| &key[..]));
    let pipeline = [
        packed(&[b"SET", b"a", b"1"]),
        packed(&[b"SET", b"big", &big]),
        packed(&[b"APPEND", b"big", &big]),
        packed(&[b"STRLEN", b"big"]),
        packed(&mset),
        packed(&[b"DBSIZE"]),
        packed(&del),
        packed(&[b"DBSIZE"]),
        packed(&[b"ECHO", &big]),
        packed(&[b"GET", b"a"]),
    ];
    conversation.send(&pipeline.concat());
    let echoed = format!("\"{}\"", "b".repeat(300_000));
    for expected in ["+OK", "+OK", ":600000", ":600000", "+OK", ":5002", ":5000", ":2", &echoed, "\"1\""] {
        assert_eq!(conversation.reply(), expected);
    }
}

#[test]
fn scans_go_on_over_connections_and_see_every_key_once() {
    let server = TestServer::start(config());
    let mut conversation = server.connect();
    for number in 0..2500 {
        conversation.send(&packed(&[b"SET", format!("key{number:04}").as_bytes(), b"v"]));
    }
    for _ in 0..2500 {
        assert_eq!(conversation.reply(), "+OK");
    }
    let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
    loop {
        let reply = server.connect().ask(&[b"SCAN", cursor.as_bytes(), b"COUNT", b"700"]);
        let mut words = reply.split('"').skip(1).step_by(2).map(str::to_owned);
        cursor = words.next().unwrap();
        keys.extend(words);
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(keys, (0..2500).map(|number| format!("key{number:04}")).collect::<Vec<_>>());
}

/// A scan that pauses for long between its calls survives whatever others scan meanwhile.
#[test]
fn a_slow_scan_goes_on_beside_many_calls_of_others() {
    let server = TestServer::start(config());
    let (mut slow, mut other) = (server.connect(), server.connect());
    for number in 0..30 {
        slow.send(&packed(&[b"SET", format!("key{number:02}").as_bytes(), b"v"]));
        assert_eq!(slow.reply(), "+OK");
    }
    let next = |reply: String| reply.split('"').nth(1).unwrap().to_owned();
    let cursor = next(slow.ask(&[b"SCAN", b"0"]));
    for _ in 0..40 {
        other.send(&packed(&[b"SCAN", b"0"]).repeat(500));
        (0..500).for_each(|_| assert_ne!(next(other.reply()), "0"));
    }
    let cursor = next(slow.ask(&[b"SCAN", cursor.as_bytes()]));
    let reply = slow.ask(&[b"SCAN", cursor.as_bytes()]);
    assert!(reply.contains("[\"key20\"") && reply.ends_with("\"key29\"]]"), "{reply}");
}

#[test]
fn patterns_and_lists_of_names_are_bounded() {
    let server = TestServer::start(config());
    let mut conversation = server.connect();
    let long = vec![b'*'; (4 << 10) + 1];
    let refused = "-ERR pattern of 4097 bytes, the limit is 4096 bytes";
    assert_eq!(conversation.ask(&[b"SCAN", b"0", b"MATCH", &long]), refused);
    assert_eq!(conversation.ask(&[b"CONFIG", b"GET", &long]), refused);
    fn many<'a>(words: &[&'a [u8]], count: usize) -> Vec<&'a [u8]> {
        let word = words[words.len() - 1];
        [words, &vec![word; count - 1]].concat()
    }
    let ask = |conversation: &mut Conversation, words: Vec<&[u8]>| conversation.ask(&words);
    let reply = ask(&mut conversation, many(&[b"COMMAND", b"INFO", b"get"], 257));
    assert_eq!(reply, "-ERR COMMAND takes at most 256 names at a time");
    let reply = ask(&mut conversation, many(&[b"CONFIG", b"GET", b"save"], 65));
    assert_eq!(reply, "-ERR CONFIG GET takes at most 64 patterns");
    assert_eq!(ask(&mut conversation, many(&[b"SET", b"a", b"1", b"GET"], 100)), "-ERR syntax error");
    assert_eq!(ask(&mut conversation, many(&[b"RANGE", b"a", b"b", b"NOVALUES"], 100)), "-ERR syntax error");
    assert_eq!(conversation.ask(&[b"PING"]), "+PONG");
    // An option that is repeated says nothing new; two that contradict each other do.
    assert_eq!(conversation.ask(&[b"SET", b"once", b"1", b"NX", b"nx"]), "+OK");
    assert_eq!(conversation.ask(&[b"SET", b"once", b"2", b"XX", b"XX"]), "+OK");
    assert_eq!(conversation.ask(&[b"SET", b"once", b"3", b"NX", b"XX"]), "-ERR syntax error");
    assert_eq!(conversation.ask(&[b"SET", b"once", b"3", b"XX", b"NX"]), "-ERR syntax error");
}

#[test]
fn a_transaction_has_bounds_and_beyond_them_is_refused_whole() {
    let server = TestServer::start(config());
    let mut conversation = server.connect();
    let abort = "-EXECABORT Transaction discarded because of previous errors.";
    assert_eq!(conversation.ask(&[b"MULTI"]), "+OK");
    conversation.send(&packed(&[b"SET", b"a", b"1"]).repeat(8193));
    (0..8192).for_each(|_| assert_eq!(conversation.reply(), "+QUEUED"));
    assert_eq!(conversation.reply(), "-ERR a transaction has at most 8192 commands");
    assert_eq!(conversation.ask(&[b"EXEC"]), abort);

    assert_eq!(conversation.ask(&[b"MULTI"]), "+OK");
    let big = vec![b'v'; 6 << 20];
    assert_eq!(conversation.ask(&[b"SET", b"a", &big]), "+QUEUED");
    assert_eq!(conversation.ask(&[b"SET", b"a", &big]), "+QUEUED");
    let refused = "-ERR a transaction has at most 16777216 bytes of commands";
    assert_eq!(conversation.ask(&[b"SET", b"a", &big]), refused);
    assert_eq!(conversation.ask(&[b"EXEC"]), abort);

    let keys: Vec<Vec<u8>> = (0..1025).map(|n| format!("key{n}").into_bytes()).collect();
    let watch = |count: usize| {
        [&[&b"WATCH"[..]], &keys[..count].iter().map(Vec::as_slice).collect::<Vec<_>>()[..]].concat()
    };
    assert_eq!(conversation.ask(&watch(1025)), "-ERR a connection watches at most 1024 keys");
    assert_eq!(conversation.ask(&watch(1024)), "+OK");
    assert_eq!(conversation.ask(&[b"WATCH", b"other"]), "-ERR a connection watches at most 1024 keys");
    assert_eq!(conversation.ask(&[b"EXISTS", b"a"]), ":0");
}

#[test]
fn one_connection_too_many_is_refused_by_name() {
    let server = TestServer::start(Config { connections_max: 1, ..config() });
    let mut first = server.connect();
    assert_eq!(first.ask(&[b"PING"]), "+PONG");
    let mut second = server.connect();
    assert_eq!(second.reply(), "-ERR max number of clients reached");
    assert_eq!(second.reply(), "(closed)");
    assert_eq!(first.ask(&[b"PING"]), "+PONG");
    assert_eq!(server.stop().refused, 1);
}

#[test]
fn a_stopping_server_answers_what_it_has_read_and_ends() {
    let server = TestServer::start(config());
    let mut busy = server.connect();
    let mut idle = server.connect();
    assert_eq!(idle.ask(&[b"PING"]), "+PONG");
    assert_eq!(busy.ask(&[b"SET", b"a", b"1"]), "+OK");
    server.begin_stop();
    assert_eq!(idle.reply(), "(closed)");
    assert_eq!(busy.reply(), "(closed)");
    let snapshot = server.stop();
    assert_eq!((snapshot.accepted, snapshot.open), (2, 0));
}

#[test]
fn a_stopping_server_does_not_wait_for_a_client_that_does_not_listen() {
    let server = TestServer::start_with(config(), Duration::from_millis(50));
    let mut deaf = server.connect();
    deaf.ask(&[b"SET", b"big", &vec![b'x'; 8 << 20]]);
    deaf.send(&packed(&[b"GET", b"big"]).repeat(20));
    assert_eq!(server.connect().ask(&[b"PING"]), "+PONG");
    assert_eq!(server.stop().open, 0);
    let mut left = Vec::new();
    // However it ends, it ends.
    let _ = deaf.stream.read_to_end(&mut left);
}

#[test]
fn garbage_closes_its_own_connection_only() {
    let server = TestServer::start(config());
    let mut good = server.connect();
    for seed in 0..200 {
        let mut random = Random(engine::rt::rng::Rng::new(seed));
        let mut noise: Vec<u8> = (0..200).map(|_| random.next() as u8).collect();
        noise.extend(b"\r\n");
        let mut bad = server.connect();
        bad.send(&noise);
        bad.stream.shutdown(Shutdown::Write).unwrap();
        while bad.reply() != "(closed)" {}
        assert_eq!(good.ask(&[b"PING"]), "+PONG");
    }
    good.stream.shutdown(Shutdown::Both).unwrap();
    assert_eq!(server.stop().open, 0);
}

#[test]
fn info_has_keys_hits_and_memory() {
    let server = TestServer::start(config());
    let mut client = server.connect();
    assert_eq!(client.ask(&[b"MSET", b"a", b"1", b"b", b"2"]), "+OK");
    assert_eq!(client.ask(&[b"GET", b"a"]), "\"1\"");
    assert_eq!(client.ask(&[b"GET", b"none"]), "(nil)");
    assert_eq!(client.ask(&[b"MGET", b"a", b"b", b"none"]), "[\"1\", \"2\", (nil)]");
    assert_eq!(client.ask(&[b"EXISTS", b"a", b"none"]), ":1");
    assert_eq!(client.ask(&[b"MULTI"]), "+OK");
    assert_eq!(client.ask(&[b"GET", b"b"]), "+QUEUED");
    assert_eq!(client.ask(&[b"EXEC"]), "[\"2\"]");
    let info = client.ask(&[b"INFO"]);
    let number = |name: &str| {
        let (_, rest) = info.split_once(&format!("{name}:")).unwrap_or_else(|| panic!("no {name} in {info}"));
        rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse::<u64>().ok())
    };
    assert_eq!((number("keyspace_hits"), number("keyspace_misses")), (Some(5), Some(3)));
    assert!(number("used_memory").is_some_and(|bytes| bytes > 1 << 20), "{info}");
    assert_eq!(number("connected_clients"), Some(1));
    assert!(info.contains("used_memory_human:") && info.contains("db0:keys=2,expires=0,avg_ttl=0"), "{info}");
}

#[test]
fn client_info_and_list_say_what_redis_says() {
    let server = TestServer::start(config());
    let (mut client, mut other) = (server.connect(), server.connect());
    assert_eq!(client.ask(&[b"CLIENT", b"SETINFO", b"LIB-NAME", b"lib"]), "+OK");
    assert_eq!(client.ask(&[b"CLIENT", b"SETINFO", b"LIB-VER", b"7"]), "+OK");
    let id = client.ask(&[b"CLIENT", b"ID"]).split_off(1);
    let (from, local) = (client.stream.local_addr().unwrap(), server.addr);
    let line = format!(
        "\"id={id} addr={from} laddr={local} fd=-1 name= age=0 idle=0 flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 \
         events=r cmd=client user=default redir=-1 resp=2 lib-name=lib lib-ver=7\\n\""
    );
    // The ages depend on how busy the machine is.
    let without_ages = |text: String| {
        let words = text.split(' ').filter(|word| !word.starts_with("age=") && !word.starts_with("idle="));
        words.collect::<Vec<_>>().join(" ")
    };
    let info = client.ask(&[b"CLIENT", b"INFO"]);
    assert!(info.contains(" age=") && info.contains(" idle="), "{info}");
    assert_eq!(without_ages(info), without_ages(line.clone()));
    assert_eq!(other.ask(&[b"PING"]), "+PONG");
    assert_eq!(client.ask(&[b"CLIENT", b"LIST"]).matches("id=").count(), 2);
    assert_eq!(client.ask(&[b"CLIENT", b"LIST", b"TYPE", b"normal"]).matches("id=").count(), 2);
    assert_eq!(client.ask(&[b"CLIENT", b"LIST", b"TYPE", b"pubsub"]), "\"\"");
    assert_eq!(client.ask(&[b"CLIENT", b"LIST", b"TYPE", b"odd"]), "-ERR Unknown client type 'odd'");
    let listed = client.ask(&[b"CLIENT", b"LIST", b"ID", id.as_bytes(), b"999"]);
    assert_eq!(without_ages(listed), without_ages(line));
    assert_eq!(client.ask(&[b"CLIENT", b"LIST", b"ID", b"x"]), "-ERR Invalid client ID");
    assert_eq!(client.ask(&[b"CLIENT", b"LIST", b"ID"]), "-ERR syntax error");
}

#[test]
fn the_local_address_is_the_one_that_the_client_has_dialed() {
    let server = TestServer::start_at([0, 0, 0, 0], config(), Duration::from_secs(30));
    for host in ["127.0.0.1", "127.0.0.2"] {
        let local = format!("{host}:{}", server.addr.port());
        let mut client = Conversation::new(TcpStream::connect(&local).unwrap());
        let info = client.ask(&[b"CLIENT", b"INFO"]);
        assert!(info.contains(&format!(" laddr={local} ")), "{info}");
    }
}
