//! `CLIENT LIST` and `CLIENT KILL`: the connections of the whole node, some at a time.
//!
//! Both go over the [`roster`](super::roster) in pages with a pause between them, so neither holds its lock or the core for
//! long. Connections that come meanwhile are not seen. What is listed is charged to the core's budget for answers.

use super::client::ConnectionState;
use super::data::REPLY_BYTES_MAX;
use super::frame::integer;
use super::reply::Writer;
use super::request::{CommandLine, Error};
use super::roster::Entry;
use super::server::Server;
use super::walk::as_error;

/// Ids that one `CLIENT LIST` takes.
const IDS_MAX: usize = 1024;
/// Arguments of one `CLIENT KILL`; more filters only repeat themselves.
const ARGS_MAX: usize = 64;
/// Connections that are looked at between two pauses.
const PAGE: usize = 128;
/// Longer than any line, names included, bytes.
const LINE_BYTES_MAX: usize = 2 << 10;
/// Text is charged in steps of at least this size, twice, because it is copied into the reply, bytes.
const CHARGE_BYTES: usize = 32 << 10;

/// What `CLIENT LIST` shows.
#[derive(Debug)]
pub enum List {
    /// Every connection.
    All,
    /// None: there is no connection of the wanted type.
    Nothing,
    /// Those with these ids, in this order.
    Ids(Vec<u64>),
}

/// Which connections `CLIENT KILL` ends: those that all filters fit.
#[derive(Debug, Default)]
pub struct Kill {
    id: Option<u64>,
    from: Option<Box<[u8]>>,
    local: Option<Box<[u8]>>,
    age_min_s: Option<u64>,
    /// A type that no connection has was asked for.
    nothing: bool,
    skip_own: bool,
    /// The old form names one address, and says whether there was such a connection.
    old_form: bool,
}

impl List {
    /// Reads `CLIENT LIST [TYPE type | ID id...]`.
    pub fn read(request: &CommandLine<'_>) -> Result<Self, Error> {
        match request.count() {
            2 => Ok(List::All),
            4 if request.is(2, "TYPE") => {
                Ok(if is_normal(request.arg(3))? { List::All } else { List::Nothing })
            }
            4.. if request.is(2, "ID") => {
                if request.count() - 3 > IDS_MAX {
                    return Err(Error::new(format!("ERR CLIENT LIST takes at most {IDS_MAX} ids")));
                }
                let id = |id| integer(id).and_then(|id| u64::try_from(id).ok());
                let ids: Option<Vec<u64>> = request.args_from(3).map(id).collect();
                Ok(List::Ids(ids.ok_or(Error::constant("ERR Invalid client ID"))?))
            }
            _no_such_form => Err(Error::SYNTAX),
        }
    }

    /// Says the lines of the connections.
    pub async fn run(self, server: &Server, reply: &mut Writer<'_>) -> Result<(), Error> {
        let (roster, budget) = (server.config.connections.roster(), server.rt.budget());
        let mut text = Text::new(server);
        match self {
            List::Nothing => {}
            List::All => {
                let (mut after, last) = (0, roster.last_id());
                loop {
                    let page = roster.page(after, last, PAGE);
                    let Some(end) = page.last() else { break };
                    after = end.id;
                    for entry in &page {
                        text.add(entry).await?;
                    }
                    budget.tick().await;
                }
            }
            List::Ids(ids) => {
                for id in ids {
                    if let Some(entry) = roster.find(id) {
                        text.add(&entry).await?;
                    }
                    budget.tick().await;
                }
            }
        }
        reply.verbatim(&text.lines);
        Ok(())
    }
}

/// Lines that are charged as they grow.
struct Text<'a> {
    server: &'a Server,
    lines: String,
    charge: crate::memory::Charge,
}

impl<'a> Text<'a> {
    fn new(server: &'a Server) -> Self {
        Self { server, lines: String::new(), charge: server.gateway.memory().output.charge(0) }
    }

    async fn add(&mut self, entry: &Entry) -> Result<(), Error> {
        if self.lines.capacity() - self.lines.len() < LINE_BYTES_MAX {
            let output = &self.server.gateway.memory().output;
            // At least as much again, so that the copies of a long text cost no more than its lines.
            let more = output.wait(&self.server.rt, 2 * CHARGE_BYTES + self.charge.bytes());
            self.charge.join(more.await.map_err(as_error)?);
            self.lines.reserve_exact(self.charge.bytes() / 2 - self.lines.len());
        }
        entry.describe(self.server.rt.now(), &mut self.lines);
        if self.lines.len() > REPLY_BYTES_MAX {
            return Err(Error::REPLY_TOO_BIG);
        }
        Ok(())
    }
}

impl Kill {
    /// Reads `CLIENT KILL addr:port`, or `CLIENT KILL filter value ...` with the filters `ID`, `TYPE`, `USER`, `ADDR`, `LADDR`,
    /// `MAXAGE` and `SKIPME`.
    pub fn read(request: &CommandLine<'_>) -> Result<Self, Error> {
        if request.count() == 3 {
            let from = Some(request.arg(2).into());
            return Ok(Self { from, old_form: true, ..Self::default() });
        }
        if request.count() > ARGS_MAX || !request.count().is_multiple_of(2) {
            return Err(Error::SYNTAX);
        }
        let mut kill = Self { skip_own: true, ..Self::default() };
        for index in (2..request.count()).step_by(2) {
            kill.read_filter(request, index)?;
        }
        Ok(kill)
    }

    fn read_filter(&mut self, request: &CommandLine<'_>, index: usize) -> Result<(), Error> {
        let value = request.arg(index + 1);
        let positive = || integer(value).and_then(|number| u64::try_from(number).ok()).filter(|&n| n > 0);
        match () {
            () if request.is(index, "ID") => {
                let id = positive().ok_or(Error::constant("ERR client-id should be greater than 0"))?;
                self.nothing |= self.id.is_some_and(|other| other != id);
                self.id = Some(id);
            }
            () if request.is(index, "TYPE") => self.nothing |= !is_normal(value)?,
            () if request.is(index, "USER") => {
                if value != b"default" {
                    let shown = String::from_utf8_lossy(&value[..value.len().min(128)]);
                    return Err(Error::new(format!("ERR No such user '{shown}'")));
                }
            }
            () if request.is(index, "ADDR") => self.from = Some(value.into()),
            () if request.is(index, "LADDR") => self.local = Some(value.into()),
            () if request.is(index, "MAXAGE") => {
                let age = positive().ok_or(Error::constant("ERR maxage should be greater than 0"))?;
                self.age_min_s = Some(age);
            }
            () if request.is(index, "SKIPME") => {
                let (yes, no) = (request.is(index + 1, "YES"), request.is(index + 1, "NO"));
                if !yes && !no {
                    return Err(Error::SYNTAX);
                }
                self.skip_own = yes;
            }
            () => return Err(Error::SYNTAX),
        }
        Ok(())
    }

    /// Ends the connections and says how many, or in the old form that it is done.
    pub async fn run(
        self,
        server: &Server,
        client: &ConnectionState,
        reply: &mut Writer<'_>,
    ) -> Result<(), Error> {
        let (connections, budget) = (&server.config.connections, server.rt.budget());
        let roster = connections.roster();
        let (mut after, mut last) = (0, roster.last_id());
        if let Some(id) = self.id {
            (after, last) = (id - 1, last.min(id));
        }
        let mut killed = 0;
        loop {
            let page = roster.page(after, last, PAGE);
            let Some(end) = page.last() else { break };
            after = end.id;
            for entry in page.iter().filter(|entry| self.fits(server, entry)) {
                if entry.id == client.entry.id {
                    // It gets to read the answer.
                    killed += i64::from(!self.skip_own && !client.leaving.replace(true));
                } else {
                    killed += i64::from(connections.kill(entry));
                }
            }
            budget.tick().await;
        }
        match (self.old_form, killed) {
            (true, 0) => return Err(Error::constant("ERR No such client")),
            (true, _) => reply.ok(),
            (false, killed) => reply.integer(killed),
        }
        Ok(())
    }

    fn fits(&self, server: &Server, entry: &Entry) -> bool {
        let is = |wanted: &Option<Box<[u8]>>, addr: Option<std::net::SocketAddr>| {
            wanted
                .as_ref()
                .is_none_or(|wanted| addr.is_some_and(|addr| addr.to_string().as_bytes() == wanted.as_ref()))
        };
        let age_s = server.rt.now().since(entry.began).as_secs();
        !self.nothing
            && self.id.is_none_or(|id| id == entry.id)
            && self.age_min_s.is_none_or(|min| age_s >= min)
            && is(&self.from, Some(entry.from))
            && is(&self.local, entry.local)
    }
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
