//! What RESP says about the node as a whole, asked of a node with two cores.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};

use store::gateway::Gateway;

use crate::migration::{start, start_with};
use crate::resp_server::Conversation;
use crate::{connection_memory, memory};

/// No test needs that many attempts; it only bounds one that fails.
const ATTEMPTS_MAX: usize = 1_000_000;

fn connect(addr: SocketAddr) -> Conversation {
    Conversation::new(TcpStream::connect(addr).unwrap())
}

/// The core that serves a connection.
fn core_of(client: &mut Conversation) -> u64 {
    let info = client.ask(&[b"INFO", b"server"]);
    let (_, rest) = info.split_once("core:").unwrap_or_else(|| panic!("no core in {info}"));
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

fn id_of(client: &mut Conversation) -> String {
    client.ask(&[b"CLIENT", b"ID"]).split_off(1)
}

/// The lines of `CLIENT LIST` by id.
fn listed(reply: &str) -> BTreeMap<u64, String> {
    let lines = reply.trim_matches('"').split("\\n").filter(|line| !line.is_empty());
    let id = |line: &str| line.split([' ', '=']).nth(1).unwrap().parse().unwrap();
    lines.map(|line| (id(line), line.to_owned())).collect()
}

/// Connections named `client-0` and so on, at least `least` of which are on each core.
fn clients_on_both_cores(addr: SocketAddr, least: usize) -> Vec<(u64, Conversation)> {
    let mut clients: Vec<(u64, Conversation)> = Vec::new();
    while (0..2).any(|core| clients.iter().filter(|(on, _)| *on == core).count() < least) {
        assert!(clients.len() < 1000, "the kernel gives one core everything");
        let mut client = connect(addr);
        let name = format!("client-{}", clients.len());
        assert_eq!(client.ask(&[b"CLIENT", b"SETNAME", name.as_bytes()]), "+OK");
        clients.push((core_of(&mut client), client));
    }
    clients
}

#[test]
fn client_list_shows_the_connections_of_all_cores() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = start(dir.path());
    let mut clients = clients_on_both_cores(node.addresses().resp, 2);
    assert_eq!(clients[1].1.ask(&[b"MULTI"]), "+OK");
    assert!(clients[2].1.ask(&[b"HELLO", b"3"]).starts_with('{'));
    let ids: Vec<String> = clients
        .iter_mut()
        .map(|(_, client)| client)
        .map(|client| client.stream.local_addr().unwrap().to_string())
        .collect();
    for asking in [0, clients.len() - 1] {
        let lines = listed(&clients[asking].1.ask(&[b"CLIENT", b"LIST"]));
        assert_eq!(lines.len(), clients.len());
        for (number, line) in lines.values().enumerate() {
            assert!(line.contains(&format!(" name=client-{number} ")), "{line}");
            assert!(line.contains(&format!(" addr={} ", ids[number])), "{line}");
            let (flags, multi) = if number == 1 { ("x", 0) } else { ("N", -1) };
            assert!(
                line.contains(&format!(" flags={flags} ")) && line.contains(&format!(" multi={multi} ")),
                "{line}"
            );
            let command = match number {
                _ if number == asking => "client",
                1 => "multi",
                2 => "hello",
                0 => "client",
                _ => "info",
            };
            assert!(line.contains(&format!(" cmd={command} ")), "{number}: {line}");
            assert!(line.contains(if number == 2 { " resp=3 " } else { " resp=2 " }), "{line}");
        }
    }
    // Named ids come in the order in which they were named, from whichever core they are.
    let id = |core: u64, clients: &mut Vec<(u64, Conversation)>| {
        let (_, client) = clients.iter_mut().skip(3).find(|(on, _)| *on == core)?;
        Some(id_of(client))
    };
    if let (Some(one), Some(other)) = (id(0, &mut clients), id(1, &mut clients)) {
        let reply =
            clients[0].1.ask(&[b"CLIENT", b"LIST", b"ID", other.as_bytes(), b"1000000", one.as_bytes()]);
        let order: Vec<_> =
            reply.match_indices("id=").map(|(at, _)| reply[at + 3..].split(' ').next().unwrap()).collect();
        assert_eq!(order, [other, one]);
    }
    drop(node);
}

#[test]
fn client_kill_reaches_the_connections_of_all_cores() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = start(dir.path());
    let addr = node.addresses().resp;
    let mut killer = connect(addr);
    let here = core_of(&mut killer);
    let killer_id = id_of(&mut killer);
    let mut victims = clients_on_both_cores(addr, 3);
    for core in 0..2 {
        let victim = |victims: &mut Vec<(u64, Conversation)>| {
            let place = victims.iter().position(|(on, _)| *on == core).unwrap();
            victims.remove(place).1
        };
        let mut by_id = victim(&mut victims);
        let id = id_of(&mut by_id);
        assert_eq!(
            killer.ask(&[b"CLIENT", b"KILL", b"ID", id.as_bytes()]),
            ":1",
            "core {core} from core {here}"
        );
        assert_eq!(by_id.reply(), "(closed)");
        let mut by_addr = victim(&mut victims);
        let from = by_addr.stream.local_addr().unwrap().to_string();
        assert_eq!(killer.ask(&[b"CLIENT", b"KILL", from.as_bytes()]), "+OK");
        assert_eq!(by_addr.reply(), "(closed)");
        assert_eq!(killer.ask(&[b"CLIENT", b"KILL", b"ID", id.as_bytes()]), ":0", "it is gone");
    }
    // What is killed leaves the roster, however long that takes.
    let left = |killer: &mut Conversation| listed(&killer.ask(&[b"CLIENT", b"LIST"])).len();
    let expected = victims.len() + 1;
    assert!((0..ATTEMPTS_MAX).any(|_| left(&mut killer) == expected), "what was killed is still listed");
    // Filters that fit no client.
    let other = victims[0].1.stream.local_addr().unwrap().to_string();
    for filters in [["LADDR", "127.0.0.1:1"], ["TYPE", "replica"], ["MAXAGE", "100000"]] {
        let [filter, value] = filters.map(str::as_bytes);
        assert_eq!(killer.ask(&[b"CLIENT", b"KILL", b"USER", b"default", filter, value]), ":0");
    }
    let id = killer_id.as_bytes();
    assert_eq!(
        killer.ask(&[b"CLIENT", b"KILL", b"ID", id, b"ADDR", other.as_bytes()]),
        ":0",
        "both must fit"
    );
    let victim = id_of(&mut victims[0].1);
    assert_eq!(
        killer.ask(&[b"CLIENT", b"KILL", b"ID", id, b"ID", victim.as_bytes()]),
        ":0",
        "none has two ids"
    );
    assert_eq!(
        killer.ask(&[b"CLIENT", b"KILL", b"ID", id]),
        ":0",
        "oneself is skipped unless asked otherwise"
    );
    assert_eq!(left(&mut killer), expected);
    let local = addr.to_string();
    let all = format!(":{}", victims.len());
    assert_eq!(killer.ask(&[b"CLIENT", b"KILL", b"LADDR", local.as_bytes(), b"TYPE", b"normal"]), all);
    for (_, victim) in &mut victims {
        assert_eq!(victim.reply(), "(closed)");
    }
    assert_eq!(killer.ask(&[b"PING"]), "+PONG");
    assert_eq!(killer.ask(&[b"CLIENT", b"KILL", b"SKIPME", b"no", b"ID", id]), ":1");
    assert_eq!(killer.reply(), "(closed)");
    drop(node);
}

#[test]
fn the_bound_on_connections_is_that_of_the_node() {
    const MAX: usize = 5;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = start_with(dir.path(), |config| config.limits.connections_max = MAX);
    let addr = node.addresses().resp;
    let mut open: Vec<Conversation> = (0..MAX).map(|_| connect(addr)).collect();
    for client in &mut open {
        assert_eq!(client.ask(&[b"PING"]), "+PONG");
    }
    assert_eq!(open[0].ask(&[b"CONFIG", b"GET", b"maxclients"]), format!("[\"maxclients\", \"{MAX}\"]"));
    // However the kernel spreads them, no core has room.
    for _ in 0..30 {
        let mut refused = connect(addr);
        assert_eq!(refused.reply(), "-ERR max number of clients reached");
        assert_eq!(refused.reply(), "(closed)");
    }
    drop(open.pop());
    let mut served = |_| connect(addr).ask(&[b"PING"]) == "+PONG";
    assert!((0..ATTEMPTS_MAX).any(&mut served), "the place of a closed connection is lost");
    drop(node);
}

/// The state of the kernel's timer for a connection, as `/proc/net/tcp` has it: 2 is a keepalive that is waited for.
fn kernel_timer(local: SocketAddr, remote: SocketAddr) -> Option<u8> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |addr: SocketAddr| format!(":{:04X}", addr.port());
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut timers =
        fields.filter(|fields| fields[1].ends_with(&port(local)) && fields[2].ends_with(&port(remote)));
    timers.next().and_then(|fields| fields[5].split(':').next()?.parse().ok())
}

#[test]
fn the_kernel_asks_whether_a_silent_client_still_lives() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = start(dir.path());
    let addr = node.addresses().resp;
    let mut client = connect(addr);
    assert_eq!(client.ask(&[b"PING"]), "+PONG");
    let from = client.stream.local_addr().unwrap();
    // Until the reply is acknowledged the timer is that of a retransmission.
    let timer = (0..ATTEMPTS_MAX).find_map(|_| kernel_timer(addr, from).filter(|&timer| timer != 1));
    assert_eq!(timer, Some(2));
    drop(node);
}

/// A connection that is silent hears of nothing by itself, so its session has to be woken. In the simulated world one that is not
/// is a failed test.
#[test]
fn a_silent_connection_that_is_killed_ends() {
    memory::in_world(|rt| async move {
        let addr = connection_memory::serve(&rt, &Gateway::in_memory());
        let mut victim = rt.connect(addr).await.unwrap();
        connection_memory::ask(&mut victim, &[b"PING"], b"+PONG\r\n").await;
        let mut killer = rt.connect(addr).await.unwrap();
        connection_memory::ask(&mut killer, &[b"CLIENT", b"KILL", b"ID", b"1"], b":1\r\n").await;
        assert_eq!(victim.read(&mut [0; 9]).await.ok(), Some(0));
        connection_memory::ask(&mut killer, &[b"PING"], b"+PONG\r\n").await;
    });
}
