//! From commands to work: every command is started or answered when it is met, or left for the session to try again later.

use std::mem;

use engine::rt::Mono;

use super::{DELETES_AT_ONCE, Phase, Session, Started};
use crate::memory::{SMALL_BYTES, items_bytes};
use crate::request::{KEY_BYTES_MAX, Out};
use crate::wire::resp::command::{CommandKind, RespCommand};
use crate::wire::resp::control::{self, Then};
use crate::wire::resp::data::{self, ReplyShape, Work};
use crate::wire::resp::exec;
use crate::wire::resp::frame::Malformed;
use crate::wire::resp::queue::Ticket;
use crate::wire::resp::request::{CommandLine, Error};
use crate::wire::resp::subcommand;
use crate::wire::resp::walk::{self, Walk};

impl Session {
    pub(super) fn start(&mut self, request: &CommandLine<'_>, bytes: usize, began: Mono) -> Started {
        if self.queue.is_walking() {
            return Started::WhenQuiet;
        }
        let Some(command) = RespCommand::find(request.arg(0)) else {
            return self.reject(request, began);
        };
        if !command.spec().takes(request.count()) {
            self.server.counters.rejected.add_one();
            self.client.transaction.borrow_mut().refuse();
            self.say_error(no_command(began), &Error::arity(command));
            return Started::Yes;
        }
        let ticket = Ticket { command: Some(command), began, bytes };
        if !self.client.authenticated.get() && !is_open_to_all(command) {
            self.say_error(ticket, &Error::NOT_AUTHENTICATED);
            return Started::Yes;
        }
        if self.client.authenticated.get() {
            self.client.has_asked();
        }
        if needs_quiet(command, request) && !self.queue.is_empty() {
            return Started::WhenQuiet;
        }
        self.client.entry.saw(command, began);
        if let Err(error) = subcommand::check(command, request) {
            self.server.counters.rejected.add_one();
            self.client.transaction.borrow_mut().refuse();
            self.say_error(ticket, &error);
            return Started::Yes;
        }
        if self.client.transaction.borrow().takes(command) {
            self.enqueue(command, ticket, request);
            return Started::Yes;
        }
        match command.spec().kind {
            CommandKind::Control if matches!(command, RespCommand::Exec | RespCommand::Watch) => {
                self.start_transaction(command, ticket, request)
            }
            CommandKind::Control if subcommand::is_walk(command, request) => {
                self.start_walk(command, ticket, request)
            }
            CommandKind::Read if subcommand::is_help(command, request) => {
                return self.run_control(command, ticket, request);
            }
            CommandKind::Read | CommandKind::Write => self.start_data(command, ticket, request),
            CommandKind::Walk => self.start_walk(command, ticket, request),
            CommandKind::Control => return self.run_control(command, ticket, request),
        }
        Started::Yes
    }

    /// Keeps a command for `EXEC`.
    fn enqueue(&mut self, command: RespCommand, ticket: Ticket, request: &CommandLine<'_>) {
        let queued = self.client.transaction.borrow_mut().queue(
            self.server.gateway.memory(),
            command,
            request,
            ticket.bytes,
        );
        match queued {
            Ok(()) => self.say(no_command(ticket.began), |reply| reply.status("QUEUED")),
            Err(error) => self.say_error(no_command(ticket.began), &error),
        }
        self.client.show_queued();
    }

    fn start_transaction(&mut self, command: RespCommand, ticket: Ticket, request: &CommandLine<'_>) {
        let (server, client) = (self.server.clone(), self.client.clone());
        if command == RespCommand::Exec {
            return self.queue.walk(ticket, Box::pin(exec::exec(server, client)));
        }
        if client.transaction.borrow().is_open() {
            return self.say_error(ticket, &Error::constant("ERR WATCH inside MULTI is not allowed"));
        }
        let ticket = Ticket { bytes: ticket.bytes + items_bytes(request.count()), ..ticket };
        match (1..request.count()).map(|index| request.key(index)).collect() {
            Ok(keys) => self.queue.walk(ticket, Box::pin(exec::watch(server, client, keys))),
            Err(error) => self.say_error(ticket, &error),
        }
    }

    fn start_data(&mut self, command: RespCommand, ticket: Ticket, request: &CommandLine<'_>) {
        if command == RespCommand::Get && self.queue.is_empty() && self.answer_in_place(request.arg(1)) {
            return;
        }
        let planned = data::plan(command, request);
        let beside_bytes = planned.as_ref().map_or(0, |(work, _)| work.items_bytes());
        let ticket = Ticket { bytes: ticket.bytes + beside_bytes, ..ticket };
        match planned {
            Ok((Work::Each(ops), _)) if ops.len() > DELETES_AT_ONCE => self.walk(ticket, Walk::Delete(ops)),
            Ok((work, shape)) => self.submit(ticket, work, shape),
            Err(error) => self.say_error(ticket, &error),
        }
    }

    fn submit(&mut self, ticket: Ticket, work: Work, shape: ReplyShape) {
        let gateway = &self.server.gateway;
        // What was sent for commands that had been put off says nothing about this one.
        gateway.take_forwarded();
        let started = self.queue.submit(gateway, ticket, work, shape);
        if started
            && let Some(core) = self.affinity.saw(gateway.take_forwarded())
            && self.client.transaction.borrow().is_idle()
            && self.server.may_migrate_to(core)
        {
            self.goal = u16::try_from(core).ok();
        }
    }

    /// Answers a `GET` that nothing is before and that memory can answer, with nothing put aside for later.
    fn answer_in_place(&mut self, key: &[u8]) -> bool {
        if key.len() > KEY_BYTES_MAX {
            return false;
        }
        let (gateway, mut room) = (&self.server.gateway, None);
        let outcome = gateway.get_now_if(key, |outcome| {
            if let Ok(Out::Value(Some(value))) = &outcome
                && value.len() > SMALL_BYTES
            {
                // Its copy in the replies has to fit. Where it does not, the read is one that waits.
                room = Some(gateway.memory().output.try_charge(value.len())?);
            }
            Some(outcome)
        });
        let Some(outcome) = outcome else { return false };
        if let Some(charge) = room {
            self.replies.reserve(charge);
        }
        self.affinity.saw(None);
        self.server.counters.looked_up(ReplyShape::Value.lookups(&outcome));
        let protocol = self.client.protocol();
        let appended = &self.server.gateway.memory().appended;
        self.replies.write_in_place(&self.server, protocol, |reply| {
            ReplyShape::Value.write(outcome, appended, reply)
        });
        self.in_place += 1;
        true
    }

    /// Counts the reads that were answered in place since `began`.
    pub(super) fn record_in_place(&mut self, began: Mono) {
        let (counters, count) = (&self.server.counters, mem::take(&mut self.in_place));
        counters.commands[RespCommand::Get as usize].add(count);
        counters.latency[CommandKind::Read as usize].record_many(self.server.rt.now().since(began), count);
    }

    fn start_walk(&mut self, command: RespCommand, ticket: Ticket, request: &CommandLine<'_>) {
        match walk::plan(command, request, &self.server, self.client.entry.id) {
            Ok(walk) => self.walk(ticket, walk),
            Err(error) => self.say_error(ticket, &error),
        }
    }

    fn walk(&mut self, ticket: Ticket, walk: Walk) {
        let walking = walk.run(self.server.clone(), self.client.clone());
        self.queue.walk(ticket, Box::pin(walking));
    }

    fn run_control(&mut self, command: RespCommand, ticket: Ticket, request: &CommandLine<'_>) -> Started {
        let (server, client) = (self.server.clone(), self.client.clone());
        let mut then = Then::GoOn;
        self.say(ticket, |reply| then = control::run(command, request, &server, &client, reply));
        match then {
            Then::GoOn => Started::Yes,
            Then::End => {
                self.phase = Phase::Ending;
                Started::Last
            }
        }
    }

    /// Answers a command that does not exist. Connections of browsers that were tricked into talking to this port are closed.
    fn reject(&mut self, request: &CommandLine<'_>, began: Mono) -> Started {
        self.server.counters.rejected.add_one();
        self.client.transaction.borrow_mut().refuse();
        let name = request.arg(0);
        if name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"host:") {
            self.phase = Phase::Ending;
            return Started::Last;
        }
        let error = match self.client.authenticated.get() {
            true => Error::unknown_command(request),
            false => Error::NOT_AUTHENTICATED,
        };
        self.say_error(no_command(began), &error);
        Started::Yes
    }

    pub(super) fn complain(&mut self, malformed: &Malformed, began: Mono) {
        self.server.counters.malformed.add_one();
        let error = Error::new(format!("ERR Protocol error: {malformed}"));
        self.say_error(no_command(began), &error);
        self.phase = Phase::EndingEarly;
    }
}

fn no_command(began: Mono) -> Ticket {
    Ticket { command: None, began, bytes: 0 }
}

fn is_open_to_all(command: RespCommand) -> bool {
    matches!(command, RespCommand::Auth | RespCommand::Hello | RespCommand::Quit | RespCommand::Reset)
}

/// Whether a command begins only when everything before it is answered: because it walks, or because it changes the
/// protocol in which the answers before it are written.
fn needs_quiet(command: RespCommand, request: &CommandLine<'_>) -> bool {
    match command {
        RespCommand::Hello | RespCommand::Reset | RespCommand::Exec | RespCommand::Watch => true,
        RespCommand::Client => subcommand::is_walk(command, request),
        RespCommand::Del | RespCommand::Unlink => request.count() - 1 > DELETES_AT_ONCE,
        command => command.spec().kind == CommandKind::Walk,
    }
}
