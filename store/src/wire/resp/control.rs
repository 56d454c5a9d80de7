//! Commands about the connection and the server that touch no key.

use super::client::{Client, Name};
use super::command::Command;
use super::describe;
use super::frame::integer;
use super::help::help;
use super::reply::{Protocol, Writer};
use super::request::{Error, Request};
use super::server::Server;
use super::settings;

/// The version of the Redis protocol and commands that this server's answers follow, for clients that ask.
pub const REDIS_VERSION: &str = "7.0.0";

/// What becomes of the connection after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It goes on.
    GoOn,
    /// It ends when the reply is sent.
    End,
}

/// Answers a command that touches no key.
pub fn run(
    command: Command,
    request: &Request<'_>,
    server: &Server,
    client: &Client,
    reply: &mut Writer<'_>,
) -> Then {
    let outcome = match command {
        Command::Ping => ping(request, reply),
        Command::Echo => {
            reply.bulk(request.arg(1));
            Ok(())
        }
        Command::Hello => hello(request, server, client, reply),
        Command::Auth => auth_command(request, server, client, reply),
        Command::Select => select(request, reply),
        Command::Client => client_command(request, server, client, reply),
        Command::Command => describe::command(request, reply),
        Command::Config => settings::config(request, server, reply),
        Command::Time => time(server, reply),
        Command::Wait => wait(request, reply),
        Command::Reset => {
            client.reset(server.config.password.is_none());
            reply.status("RESET");
            Ok(())
        }
        Command::Persist => {
            reply.integer(0);
            Ok(())
        }
        Command::Multi => client.transaction.borrow_mut().begin().map(|()| reply.ok()),
        Command::Discard => client.transaction.borrow_mut().discard().map(|()| reply.ok()),
        Command::Unwatch => {
            client.transaction.borrow_mut().unwatch();
            reply.ok();
            Ok(())
        }
        Command::Quit => {
            reply.ok();
            return Then::End;
        }
        other => {
            debug_assert!(false, "{other:?} is not answered here");
            Err(Error::unknown_command(request))
        }
    };
    if let Err(error) = outcome {
        reply.error(error.text());
    }
    Then::GoOn
}

fn ping(request: &Request<'_>, reply: &mut Writer<'_>) -> Result<(), Error> {
    match request.count() {
        1 => reply.status("PONG"),
        2 => reply.bulk(request.arg(1)),
        _ => return Err(Error::arity(Command::Ping)),
    }
    Ok(())
}

fn select(request: &Request<'_>, reply: &mut Writer<'_>) -> Result<(), Error> {
    match integer(request.arg(1)) {
        Some(0) => reply.ok(),
        Some(_) => return Err(Error::constant("ERR DB index is out of range")),
        None => return Err(Error::NOT_AN_INTEGER),
    }
    Ok(())
}

fn time(server: &Server, reply: &mut Writer<'_>) -> Result<(), Error> {
    let wall = server.rt.wall();
    reply.array(2);
    reply.bulk(wall.as_secs().to_string().as_bytes());
    reply.bulk(wall.subsec_micros().to_string().as_bytes());
    Ok(())
}

/// There are no replicas in Redis' sense; a write that is answered is already kept by a quorum.
fn wait(request: &Request<'_>, reply: &mut Writer<'_>) -> Result<(), Error> {
    request.integer(1)?;
    if request.integer(2).map_err(|_| Error::constant("ERR timeout is not an integer or out of range"))? < 0 {
        return Err(Error::constant("ERR timeout is negative"));
    }
    reply.integer(0);
    Ok(())
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`. Nothing is changed unless all of it is right.
fn hello(
    request: &Request<'_>,
    server: &Server,
    client: &Client,
    reply: &mut Writer<'_>,
) -> Result<(), Error> {
    let protocol = match request.get(1).map(integer) {
        None => client.protocol.get(),
        Some(Some(2)) => Protocol::Resp2,
        Some(Some(3)) => Protocol::Resp3,
        Some(Some(_)) => return Err(Error::constant("NOPROTO unsupported protocol version")),
        Some(None) => {
            return Err(Error::constant("ERR Protocol version is not an integer or out of range"));
        }
    };
    if request.count() > 16 {
        return Err(Error::SYNTAX);
    }
    let (mut index, mut name) = (2, None);
    while index < request.count() {
        if request.is(index, "AUTH") && index + 2 < request.count() {
            authenticate(server, client, request.arg(index + 1), request.arg(index + 2))?;
            index += 3;
        } else if request.is(index, "SETNAME") && index + 1 < request.count() {
            name = Some(request.arg(index + 1));
            index += 2;
        } else {
            let option = String::from_utf8_lossy(request.arg(index)).into_owned();
            return Err(Error::new(format!("ERR Syntax error in HELLO option '{option}'")));
        }
    }
    if !client.authenticated.get() {
        return Err(Error::constant(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
             <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
             the same time",
        ));
    }
    if let Some(name) = name {
        client.set_name(Name::Connection, name)?;
    }
    client.protocol.set(protocol);
    reply.switch(protocol);
    greet(client, reply);
    Ok(())
}

fn greet(client: &Client, reply: &mut Writer<'_>) {
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"ringkeep");
    reply.bulk(b"version");
    reply.bulk(REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.integer(if client.protocol.get() == Protocol::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(i64::try_from(client.id).unwrap_or(i64::MAX));
    reply.bulk(b"mode");
    reply.bulk(b"standalone");
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
}

fn auth_command(
    request: &Request<'_>,
    server: &Server,
    client: &Client,
    reply: &mut Writer<'_>,
) -> Result<(), Error> {
    let (user, password) = match request.count() {
        2 if server.config.password.is_none() => {
            return Err(Error::constant(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure \
                 your configuration is correct?",
            ));
        }
        2 => (&b"default"[..], request.arg(1)),
        3 => (request.arg(1), request.arg(2)),
        _ => return Err(Error::SYNTAX),
    };
    authenticate(server, client, user, password)?;
    reply.ok();
    Ok(())
}

/// There is one user, `default`. Without a password every password is right, as in Redis.
fn authenticate(server: &Server, client: &Client, user: &[u8], password: &[u8]) -> Result<(), Error> {
    let right = match &server.config.password {
        None => true,
        Some(expected) => same(expected.as_bytes(), password),
    };
    if user != b"default" || !right {
        server.counters.wrong_passwords.add_one();
        tracing::warn!(from = %client.from, "a RESP client gave a wrong password");
        return Err(Error::constant("WRONGPASS invalid username-password pair or user is disabled."));
    }
    client.authenticated.set(true);
    Ok(())
}

/// Compares without telling by the time it takes where the first difference is.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |differing, (a, b)| differing | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differing) == 0
}

fn client_command(
    request: &Request<'_>,
    server: &Server,
    client: &Client,
    reply: &mut Writer<'_>,
) -> Result<(), Error> {
    let sub = request.arg(1);
    let args = request.count() - 2;
    let known = |word: &str| request.is(1, word);
    let needs =
        |count| if args == count { Ok(()) } else { Err(Error::subcommand_arity(Command::Client, sub)) };
    match () {
        () if known("HELP") => help(Command::Client, request, reply)?,
        () if known("SETNAME") => {
            needs(1)?;
            client.set_name(Name::Connection, request.arg(2))?;
            reply.ok();
        }
        () if known("GETNAME") => {
            needs(0)?;
            let name = client.name();
            reply.bulk_or_null((!name.is_empty()).then_some(name.as_bytes()));
        }
        () if known("SETINFO") => {
            needs(2)?;
            set_info(request, client)?;
            reply.ok();
        }
        () if known("ID") => {
            needs(0)?;
            reply.integer(i64::try_from(client.id).unwrap_or(i64::MAX));
        }
        () if known("INFO") => {
            needs(0)?;
            let mut line = String::new();
            client.describe(server.rt.now(), server.local, &mut line);
            reply.verbatim(&line);
        }
        () if known("LIST") => list(request, server, reply)?,
        // Nothing is evicted and no access times are kept, so either wish is granted.
        () if known("NO-EVICT") || known("NO-TOUCH") => {
            needs(1)?;
            if !request.is(2, "ON") && !request.is(2, "OFF") {
                return Err(Error::SYNTAX);
            }
            reply.ok();
        }
        () if known("REPLY") => {
            needs(1)?;
            if !request.is(2, "ON") {
                return Err(Error::constant(
                    "ERR CLIENT REPLY OFF and SKIP are not supported, replies are always sent",
                ));
            }
            reply.ok();
        }
        () => return Err(Error::unknown_subcommand(Command::Client, sub)),
    }
    Ok(())
}

/// Ids that one `CLIENT LIST` takes.
const IDS_MAX: usize = 1024;

/// `CLIENT LIST [TYPE type] [ID id...]`, over the connections of this core.
fn list(request: &Request<'_>, server: &Server, reply: &mut Writer<'_>) -> Result<(), Error> {
    let lines = match request.count() {
        2 => server.describe_clients(None),
        4 if request.is(2, "TYPE") => match is_normal(request.arg(3))? {
            true => server.describe_clients(None),
            false => String::new(),
        },
        4.. if request.is(2, "ID") => {
            if request.count() - 3 > IDS_MAX {
                return Err(Error::new(format!("ERR CLIENT LIST takes at most {IDS_MAX} ids")));
            }
            let id = |id| integer(id).and_then(|id| u64::try_from(id).ok());
            let ids: Option<Vec<u64>> = request.args_from(3).map(id).collect();
            server.describe_clients(Some(&ids.ok_or(Error::constant("ERR Invalid client ID"))?))
        }
        _ => return Err(Error::SYNTAX),
    };
    reply.verbatim(&lines);
    Ok(())
}

/// Whether a type of connections is the one that there is.
fn is_normal(name: &[u8]) -> Result<bool, Error> {
    let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
    if is("normal") {
        return Ok(true);
    }
    if ["master", "replica", "slave", "pubsub"].into_iter().any(is) {
        return Ok(false);
    }
    let shown = String::from_utf8_lossy(&name[..name.len().min(128)]);
    Err(Error::new(format!("ERR Unknown client type '{shown}'")))
}

fn set_info(request: &Request<'_>, client: &Client) -> Result<(), Error> {
    let which = match () {
        () if request.is(2, "LIB-NAME") => Name::Library,
        () if request.is(2, "LIB-VER") => Name::Version,
        () => {
            let option = String::from_utf8_lossy(request.arg(2)).into_owned();
            return Err(Error::new(format!("ERR Unrecognized option '{option}'")));
        }
    };
    client.set_name(which, request.arg(3))
}
