//! Clients of other makers: the crate `redis`, `redis-cli`, `redis-benchmark`.

use std::process::Command;

use redis::{Commands, ProtocolVersion};

use crate::resp_scripts::skip;
use crate::resp_server::{TestServer, config};

fn use_the_crate(server: &TestServer, protocol: &str) {
    let client = redis::Client::open(format!("redis://{}/{protocol}", server.addr)).unwrap();
    let mut connection = client.get_connection().unwrap();
    let _: () = redis::cmd("FLUSHALL").query(&mut connection).unwrap();
    let _: () = connection.set("a", 1).unwrap();
    assert_eq!(connection.incr::<_, _, i64>("a", 41).unwrap(), 42);
    assert_eq!(connection.get::<_, Option<String>>("nothing").unwrap(), None);
    assert!(!connection.set_nx::<_, _, bool>("a", 2).unwrap());
    let _: () = connection.mset(&[("b", "x"), ("c", "y")]).unwrap();
    assert_eq!(
        connection.mget::<_, Vec<Option<String>>>(&["a", "nothing", "c"]).unwrap(),
        [Some("42".to_owned()), None, Some("y".to_owned())]
    );
    let (first, second): (i64, Vec<u8>) =
        redis::pipe().incr("a", 1).append("b", "yz").ignore().get("b").query(&mut connection).unwrap();
    assert_eq!((first, &second[..]), (43, &b"xyz"[..]));
    let mut keys: Vec<String> = connection.scan().unwrap().map(Result::unwrap).collect();
    keys.sort();
    assert_eq!(keys, ["a", "b", "c"]);
    let wrong = connection.incr::<_, _, i64>("b", 1).unwrap_err();
    assert!(wrong.to_string().contains("not an integer"), "{wrong}");
    let unknown = redis::cmd("LPUSH").arg("l").arg(1).query::<()>(&mut connection).unwrap_err();
    assert!(unknown.to_string().contains("unknown command"), "{unknown}");
    assert_eq!(connection.del::<_, i64>(&["a", "b", "nothing"]).unwrap(), 2);
    let info: redis::InfoDict = redis::cmd("INFO").query(&mut connection).unwrap();
    assert_eq!(info.get::<String>("redis_mode").unwrap(), "standalone");
}

#[test]
fn the_crate_redis_in_both_protocols() {
    let server = TestServer::start(config());
    use_the_crate(&server, "");
    use_the_crate(&server, "?protocol=resp3");
    let client = redis::Client::open(format!("redis://{}/?protocol=resp3", server.addr)).unwrap();
    assert_eq!(client.get_connection_info().redis_settings().protocol(), ProtocolVersion::RESP3);
}

#[test]
fn the_crate_redis_authenticates() {
    let mut settings = config();
    settings.password = Some("secret".to_owned());
    let server = TestServer::start(settings);
    let client = redis::Client::open(format!("redis://:secret@{}/", server.addr)).unwrap();
    let mut connection = client.get_connection().unwrap();
    let _: () = connection.set("a", 1).unwrap();
    assert!(
        redis::Client::open(format!("redis://:wrong@{}/", server.addr)).unwrap().get_connection().is_err()
    );
}

/// What a tool prints; `None` when it is not installed.
fn tool(name: &str, server: &TestServer, args: &[&str]) -> Option<String> {
    let output = Command::new(name).args(["-p", &server.addr.port().to_string()]).args(args).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name} {args:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

#[test]
fn redis_cli_works() {
    let server = TestServer::start(config());
    if tool("redis-cli", &server, &["PING"]).is_none() {
        return skip("redis-cli is not installed (Debian package redis-tools)");
    }
    let cli = |args: &[&str]| tool("redis-cli", &server, args).unwrap();
    assert_eq!(cli(&["SET", "a", "1"]), "OK\n");
    assert_eq!(cli(&["-3", "GET", "a"]), "1\n");
    assert_eq!(cli(&["-3", "--json", "MGET", "a", "b"]), "[\"1\",null]\n");
    assert_eq!(cli(&["--scan", "--pattern", "a*"]), "a\n");
    assert_eq!(cli(&["RANGE", "", ""]), "a\n1\n");
    assert!(cli(&["INFO"]).contains("redis_version:7"));
    assert!(cli(&["--bigkeys"]).contains("Biggest string found"));
    assert!(cli(&["COMMAND", "DOCS", "get"]).contains("Returns the value of a key."));
}

#[test]
fn redis_benchmark_works() {
    let server = TestServer::start(config());
    for pipeline in ["1", "16"] {
        let args =
            ["-t", "ping,set,get,incr,mset", "-n", "2000", "-c", "20", "-r", "1000", "-q", "-P", pipeline];
        let Some(text) = tool("redis-benchmark", &server, &args) else {
            return skip("redis-benchmark is not installed (Debian package redis-tools)");
        };
        assert!(!text.contains("Error") && !text.contains("ERR"), "{text}");
    }
    let snapshot = server.stop();
    let count = |name: &str| snapshot.commands.iter().find(|(command, _)| *command == name).unwrap().1;
    assert_eq!((count("set"), count("get"), count("incr"), count("mset")), (4000, 4000, 4000, 4000));
}
