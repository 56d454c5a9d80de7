//! `COMMAND`: the table of commands as clients and `redis-cli` ask for it.

use super::command::{CommandKind, RespCommand, SPECS, Spec};
use super::data::size;
use super::reply::Writer;
use super::request::{CommandLine, Error};

/// Names of one `COMMAND INFO` or `DOCS`: each is answered with some hundred bytes, without a pause.
const NAMES_MAX: usize = 256;

/// Answers `COMMAND` and its parts. The part has been checked.
pub fn command(request: &CommandLine<'_>, reply: &mut Writer<'_>) -> Result<(), Error> {
    let Some(sub) = request.get(1) else {
        describe_all(reply);
        return Ok(());
    };
    if request.count() > NAMES_MAX + 2 && !request.is(1, "GETKEYS") {
        return Err(Error::new(format!("ERR COMMAND takes at most {NAMES_MAX} names at a time")));
    }
    match () {
        () if request.is(1, "COUNT") => reply.integer(size(SPECS.len())),
        () if request.is(1, "LIST") => {
            reply.array(SPECS.len());
            SPECS.iter().for_each(|spec| reply.bulk(spec.name.as_bytes()));
        }
        () if request.is(1, "INFO") && request.count() == 2 => describe_all(reply),
        () if request.is(1, "INFO") => {
            let names = request.args_from(2);
            reply.array(names.len());
            names.for_each(|name| match RespCommand::find(name) {
                Some(command) => describe(command.spec(), reply),
                None => reply.null(),
            });
        }
        () if request.is(1, "DOCS") && request.count() == 2 => document(&SPECS.each_ref(), reply),
        () if request.is(1, "DOCS") => {
            let named: Vec<&Spec> =
                request.args_from(2).filter_map(RespCommand::find).map(RespCommand::spec).collect();
            document(&named, reply);
        }
        () if request.is(1, "GETKEYS") => keys(request, reply)?,
        () => return Err(Error::unknown_subcommand(RespCommand::Command, sub)),
    }
    Ok(())
}

fn describe_all(reply: &mut Writer<'_>) {
    reply.array(SPECS.len());
    SPECS.iter().for_each(|spec| describe(spec, reply));
}

/// Name, arity, flags, first key, last key, step, categories, tips, key specifications, subcommands.
fn describe(spec: &Spec, reply: &mut Writer<'_>) {
    reply.array(10);
    reply.bulk(spec.name.as_bytes());
    reply.integer(spec.arity);
    statuses(flags(spec), reply);
    reply.integer(spec.keys.first);
    reply.integer(spec.keys.last);
    reply.integer(spec.keys.step);
    statuses(categories(spec), reply);
    // Tips, key specifications and subcommands, of which clients make use without needing them.
    (0..3).for_each(|_| reply.set(0));
}

fn statuses(words: &[&str], reply: &mut Writer<'_>) {
    reply.set(words.len());
    words.iter().for_each(|word| reply.status(word));
}

fn flags(spec: &Spec) -> &'static [&'static str] {
    match (spec.command, spec.kind) {
        (RespCommand::Auth | RespCommand::Hello | RespCommand::Quit | RespCommand::Reset, _) => {
            &["fast", "no_auth"]
        }
        (RespCommand::Flushall | RespCommand::Flushdb, _) | (_, CommandKind::Write) => &["write"],
        (RespCommand::Info, _) | (_, CommandKind::Control) => &["fast"],
        (_, CommandKind::Read | CommandKind::Walk) => &["readonly"],
    }
}

fn categories(spec: &Spec) -> &'static [&'static str] {
    match (spec.command, spec.kind) {
        (RespCommand::Flushall | RespCommand::Flushdb, _) => &["@keyspace", "@write", "@dangerous"],
        (RespCommand::Info, _) => &["@dangerous"],
        (command, CommandKind::Write) => match group(command) {
            "generic" => &["@keyspace", "@write"],
            "bitmap" => &["@bitmap", "@write"],
            _strings => &["@string", "@write"],
        },
        (command, CommandKind::Read) => match group(command) {
            "generic" => &["@keyspace", "@read"],
            "bitmap" => &["@bitmap", "@read"],
            _strings => &["@string", "@read"],
        },
        (_, CommandKind::Walk) => &["@keyspace", "@read"],
        (_, CommandKind::Control) => &["@connection"],
    }
}

/// Under which heading Redis documents a command.
fn group(command: RespCommand) -> &'static str {
    use RespCommand as C;
    match command {
        C::Bitcount | C::Bitpos | C::Getbit | C::Setbit => "bitmap",
        C::Copy
        | C::Del
        | C::Exists
        | C::Expire
        | C::Expireat
        | C::Expiretime
        | C::Keys
        | C::Object
        | C::Persist
        | C::Pexpire
        | C::Pexpireat
        | C::Pexpiretime
        | C::Pttl
        | C::Randomkey
        | C::Range
        | C::Rename
        | C::Renamenx
        | C::Scan
        | C::Touch
        | C::Ttl
        | C::Type
        | C::Unlink
        | C::Wait => "generic",
        C::Append
        | C::Decr
        | C::Decrby
        | C::Get
        | C::Getdel
        | C::Getex
        | C::Getrange
        | C::Getset
        | C::Incr
        | C::Incrby
        | C::Incrbyfloat
        | C::Mget
        | C::Mset
        | C::Msetnx
        | C::Psetex
        | C::Set
        | C::Setex
        | C::Setnx
        | C::Setrange
        | C::Strlen
        | C::Substr => "string",
        C::Auth | C::Client | C::Echo | C::Hello | C::Ping | C::Quit | C::Reset | C::Select => "connection",
        C::Command | C::Config | C::Dbsize | C::Flushall | C::Flushdb | C::Info | C::Time => "server",
        C::Discard | C::Exec | C::Multi | C::Unwatch | C::Watch => "transactions",
    }
}

fn document(specs: &[&Spec], reply: &mut Writer<'_>) {
    reply.map(specs.len());
    for spec in specs {
        reply.bulk(spec.name.as_bytes());
        let fields = [("summary", spec.summary), ("since", "0.1.0"), ("group", group(spec.command))];
        reply.map(fields.len());
        for (field, text) in fields {
            reply.bulk(field.as_bytes());
            reply.bulk(text.as_bytes());
        }
    }
}

fn keys(request: &CommandLine<'_>, reply: &mut Writer<'_>) -> Result<(), Error> {
    let args = request.count() - 2;
    let spec =
        RespCommand::find(request.arg(2)).ok_or(Error::constant("ERR Invalid command specified"))?.spec();
    if !spec.takes(args) {
        return Err(Error::constant("ERR Invalid number of arguments specified for command"));
    }
    if spec.keys.first == 0 {
        return Err(Error::constant("ERR The command has no key arguments"));
    }
    let last = if spec.keys.last < 0 { args as i64 + spec.keys.last } else { spec.keys.last };
    let places: Vec<i64> = (spec.keys.first..=last).step_by(spec.keys.step as usize).collect();
    reply.array(places.len());
    places.iter().for_each(|&place| reply.bulk(request.arg(2 + place as usize)));
    Ok(())
}
