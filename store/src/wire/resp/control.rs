//! Commands about the connection and the server that touch no key.

use super::client::ConnectionState;
use super::command::RespCommand;
use super::describe;
use super::frame::integer;
use super::help::help;
use super::reply::{Protocol, Writer};
use super::request::{CommandLine, Error};
use super::roster::Name;
use super::server::Server;
use super::settings;
use super::subcommand;

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

/// Answers a command that touches no key. Its part has been checked, if it has parts.
pub fn run(
    command: RespCommand,
    request: &CommandLine<'_>,
    server: &Server,
    client: &ConnectionState,
    reply: &mut Writer<'_>,
) -> Then {
    if subcommand::is_help(command, request) {
        help(command, reply);
        return Then::GoOn;
    }
    let outcome = match command {
        RespCommand::Ping => ping(request, reply),
        RespCommand::Echo => {
            reply.bulk(request.arg(1));
            Ok(())
        }
        RespCommand::Hello => hello(request, server, client, reply),
        RespCommand::Auth => auth_command(request, server, client, reply),
        RespCommand::Select => select(request).map(|()| reply.ok()),
        RespCommand::Client => client_command(request, server, client, reply),
        RespCommand::Command => describe::command(request, reply),
        RespCommand::Config => settings::config(request, server, reply),
        RespCommand::Time => time(server, reply),
        RespCommand::Wait => wait(request, reply),
        RespCommand::Reset => {
            client.reset(server.config.password.is_none());
            reply.status("RESET");
            Ok(())
        }
        RespCommand::Multi => {
            let begun = client.transaction.borrow_mut().begin();
            client.show_queued();
            begun.map(|()| reply.ok())
        }
        RespCommand::Discard => {
            let discarded = client.transaction.borrow_mut().discard();
            client.show_queued();
            discarded.map(|()| reply.ok())
        }
        RespCommand::Unwatch => {
            client.transaction.borrow_mut().unwatch();
            reply.ok();
            Ok(())
        }
        RespCommand::Quit => {
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

/// Whether Redis would carry out what this server would answer with an error that comes too late for a transaction.
///
/// # Errors
/// It would: the transaction is refused.
pub fn check(command: RespCommand, request: &CommandLine<'_>) -> Result<(), Error> {
    match command {
        RespCommand::Select => match select(request) {
            Err(error) if error.aborts_transaction() => Err(error),
            Ok(()) | Err(_) => Ok(()),
        },
        _answered_alike => Ok(()),
    }
}

fn ping(request: &CommandLine<'_>, reply: &mut Writer<'_>) -> Result<(), Error> {
    match request.count() {
        1 => reply.status("PONG"),
        2 => reply.bulk(request.arg(1)),
        _ => return Err(Error::arity(RespCommand::Ping)),
    }
    Ok(())
}

/// `SELECT 0`.
fn select(request: &CommandLine<'_>) -> Result<(), Error> {
    match integer(request.arg(1)) {
        Some(0) => Ok(()),
        Some(_) => Err(Error::NO_SUCH_DATABASE),
        None => Err(Error::NOT_AN_INTEGER),
    }
}

fn time(server: &Server, reply: &mut Writer<'_>) -> Result<(), Error> {
    let wall = server.rt.wall();
    reply.array(2);
    reply.bulk(wall.as_secs().to_string().as_bytes());
    reply.bulk(wall.subsec_micros().to_string().as_bytes());
    Ok(())
}

/// There are no replicas in Redis' sense; a write that is answered is already kept by a quorum.
fn wait(request: &CommandLine<'_>, reply: &mut Writer<'_>) -> Result<(), Error> {
    request.integer(1)?;
    if request.integer(2).map_err(|_| Error::constant("ERR timeout is not an integer or out of range"))? < 0 {
        return Err(Error::constant("ERR timeout is negative"));
    }
    reply.integer(0);
    Ok(())
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`. Nothing is changed unless all of it is right.
fn hello(
    request: &CommandLine<'_>,
    server: &Server,
    client: &ConnectionState,
    reply: &mut Writer<'_>,
) -> Result<(), Error> {
    let protocol = match request.get(1).map(integer) {
        None => client.protocol(),
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
        client.entry.set_name(Name::Connection, name)?;
    }
    client.speak(protocol);
    reply.switch(protocol);
    greet(client, reply);
    Ok(())
}

fn greet(client: &ConnectionState, reply: &mut Writer<'_>) {
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"ringkeep");
    reply.bulk(b"version");
    reply.bulk(REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.integer(if client.protocol() == Protocol::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(i64::try_from(client.entry.id).unwrap_or(i64::MAX));
    reply.bulk(b"mode");
    reply.bulk(b"standalone");
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
}

fn auth_command(
    request: &CommandLine<'_>,
    server: &Server,
    client: &ConnectionState,
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
fn authenticate(
    server: &Server,
    client: &ConnectionState,
    user: &[u8],
    password: &[u8],
) -> Result<(), Error> {
    let right = match &server.config.password {
        None => true,
        Some(expected) => same(expected.as_bytes(), password),
    };
    if user != b"default" || !right {
        server.counters.wrong_passwords.add_one();
        tracing::warn!(from = %client.entry.from, "a RESP client gave a wrong password");
        return Err(Error::constant("WRONGPASS invalid username-password pair or user is disabled."));
    }
    client.authenticated.set(true);
    client.has_asked();
    Ok(())
}

/// Compares in a time that does not depend on where the first difference is.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |differing, (a, b)| differing | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differing) == 0
}

/// The parts of `CLIENT` that concern this connection alone. The part has been checked.
fn client_command(
    request: &CommandLine<'_>,
    server: &Server,
    client: &ConnectionState,
    reply: &mut Writer<'_>,
) -> Result<(), Error> {
    let known = |word: &str| request.is(1, word);
    match () {
        () if known("SETNAME") => {
            client.entry.set_name(Name::Connection, request.arg(2))?;
            reply.ok();
        }
        () if known("GETNAME") => {
            let name = client.entry.name();
            reply.bulk_or_null((!name.is_empty()).then_some(name.as_bytes()));
        }
        () if known("SETINFO") => {
            set_info(request, client)?;
            reply.ok();
        }
        () if known("ID") => reply.integer(i64::try_from(client.entry.id).unwrap_or(i64::MAX)),
        () if known("INFO") => {
            let mut line = String::new();
            client.entry.describe(server.rt.now(), &mut line);
            reply.verbatim(&line);
        }
        // No connection is evicted for its size and no access times are kept, so either wish is granted.
        () if known("NO-EVICT") || known("NO-TOUCH") => {
            if !request.is(2, "ON") && !request.is(2, "OFF") {
                return Err(Error::SYNTAX);
            }
            reply.ok();
        }
        () if known("REPLY") => reply.ok(),
        () => return Err(Error::unknown_subcommand(RespCommand::Client, request.arg(1))),
    }
    Ok(())
}

fn set_info(request: &CommandLine<'_>, client: &ConnectionState) -> Result<(), Error> {
    let which = match () {
        () if request.is(2, "LIB-NAME") => Name::Library,
        () if request.is(2, "LIB-VER") => Name::Version,
        () => {
            let option = String::from_utf8_lossy(request.arg(2)).into_owned();
            return Err(Error::new(format!("ERR Unrecognized option '{option}'")));
        }
    };
    client.entry.set_name(which, request.arg(3))
}
