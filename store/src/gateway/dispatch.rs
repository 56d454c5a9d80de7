//! From one core to the stores of the whole node.
//!
//! A request with a route belongs to the store whose port it came to; that store's guard answers for it. A request without
//! one is sent to whichever store owns the key: in place if it lives on this core, by one message otherwise. What spans
//! regions is taken apart here and put together again; it is atomic per region only.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;

use engine::rt::Rt;
use engine::rt::chan::Receiver;
use engine::rt::local::{Answer, Pending, oneshot};

use crate::memory::{AnswerBytes, Memory, charged_bytes, charged_length, charged_pair_bytes};
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::region::command::encoded_bytes;
use crate::request::{Op, Out, Outcome, Route, Scan};
use crate::shard::Shard;
use crate::shard::links::{Links, Message};
use crate::shard::reply::Reply;
use crate::shard::routes::{Place, Routes};

/// Batches of messages handled before other tasks of the core get a turn.
const BATCHES_MAX: usize = 64;

/// Pairs asked of one region at a time when a scan spans several.
const SCAN_CHUNK: usize = 4096;

/// One core's view of the node.
pub struct Dispatch {
    rt: Rt,
    /// By the index of every store of the node: the store, if it is on this core.
    shards: Vec<Option<Shard>>,
    /// Why stores of this core could not be opened, by their index on the node.
    fenced: BTreeMap<usize, String>,
    whole: Whole,
    routes: RefCell<Routes>,
    links: Rc<Links>,
    memory: Memory,
    /// Where operations went since this was last asked.
    went: Cell<Went>,
}

/// The stores of one core, by their index on the node.
#[derive(Debug)]
pub struct Here {
    /// Those that serve.
    pub shards: BTreeMap<usize, Shard>,
    /// Why the others could not be opened.
    pub fenced: BTreeMap<usize, String>,
}

/// What a core knows of the whole node.
#[derive(Debug)]
pub struct Whole {
    /// Which core hosts each store.
    pub core_of: Vec<usize>,
    /// The largest command that a region takes, bytes.
    pub command_bytes_max: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum Went {
    #[default]
    Nowhere,
    /// All to this other core.
    To(usize),
    /// At least one to a store of this core, or to a second one.
    Elsewhere,
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here: Vec<_> = self.shards.iter().flatten().map(Shard::store).collect();
        write!(f, "core {} with stores {here:?}", self.rt.core())
    }
}

impl Dispatch {
    /// Joins the stores of this core to those of the others.
    pub fn start(
        rt: &Rt,
        Here { shards: open, fenced }: Here,
        whole: Whole,
        routes: Routes,
        links: Rc<Links>,
        inbox: Receiver<Vec<Message>>,
        memory: Memory,
    ) -> Rc<Self> {
        let mut shards = vec![None; whole.core_of.len()];
        open.into_iter().for_each(|(store, shard)| shards[store] = Some(shard));
        let routes = RefCell::new(routes);
        let went = Cell::default();
        let dispatch = Rc::new(Self { rt: rt.clone(), shards, fenced, whole, routes, links, memory, went });
        let receiving = dispatch.clone();
        rt.spawn(async move { receiving.receive(inbox).await });
        dispatch
    }

    pub(super) fn submit(
        self: &Rc<Self>,
        home: usize,
        route: Option<Route>,
        op: Op,
        answer: Answer<Outcome>,
    ) {
        if route.is_some() {
            return self.deliver(home, route, op, answer);
        }
        match self.split(op) {
            Parts::One(store, op) => self.deliver(store, None, op, answer),
            Parts::Refused(refusal) => answer.send(Err(refusal)),
            Parts::Nowhere => answer.send(Err(Refusal::RegionNotFound { region_id: 0 })),
            Parts::Scan(scan) => self.spawn(answer, |dispatch| async move { dispatch.scan(scan).await }),
            Parts::Get(mut parts, keys) => {
                if parts.len() > 1 {
                    parts.iter_mut().for_each(|(_, op, _)| ask_at_once(op));
                }
                let parts = self.start_all(parts);
                self.spawn(answer, |dispatch| async move { dispatch.join_values(parts, keys).await });
            }
            Parts::Lengths(parts, len) => {
                let parts = self.start_all(parts);
                self.spawn(answer, |_| join_lengths(parts, len));
            }
            Parts::Write(parts) => {
                if let Err(refusal) = self.check_sizes(&parts) {
                    return answer.send(Err(refusal));
                }
                let parts = self.start_all(parts.into_iter().map(|(store, op)| (store, op, ())));
                self.spawn(answer, |_| join_done(parts));
            }
        }
    }

    /// What a `Get` of `key` comes to, if a store of this core can say so at once.
    /// It counts as a read if `keep` has room for it.
    pub(super) fn get_now(
        &self,
        home: usize,
        route: Option<&Route>,
        key: &[u8],
        keep: impl FnOnce(Outcome) -> Option<Outcome>,
    ) -> Option<Outcome> {
        let store = match route {
            Some(_) => home,
            None => self.routes.borrow().find(key)?.store,
        };
        self.shard(store)?.get_now(route, key, keep)
    }

    /// This core's bounds on what clients make it hold.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The other core to which all operations went since this was last asked.
    pub(super) fn take_forwarded(&self) -> Option<usize> {
        match self.went.take() {
            Went::To(core) => Some(core),
            Went::Nowhere | Went::Elsewhere => None,
        }
    }

    /// One part that can never be written would leave the others without it, so then nothing begins.
    fn check_sizes(&self, parts: &[(usize, Op)]) -> Result<(), Refusal> {
        let bytes_max = self.whole.command_bytes_max;
        match parts.iter().map(|(_, op)| command_bytes(op)).find(|bytes| *bytes > bytes_max) {
            Some(bytes) => Err(Refusal::TooLarge { region_id: 0, bytes, bytes_max }),
            None => Ok(()),
        }
    }

    fn shard(&self, store: usize) -> Option<&Shard> {
        self.shards.get(store)?.as_ref()
    }

    fn spawn<F>(self: &Rc<Self>, answer: Answer<Outcome>, work: impl FnOnce(Rc<Self>) -> F)
    where
        F: Future<Output = Outcome> + 'static,
    {
        let work = work(self.clone());
        self.rt.spawn(async move {
            // Every part of a write has been submitted by now; only the waiting for it, and what a read would still do, ends.
            if let Some(outcome) = answer.unless_left(work).await {
                answer.send(outcome);
            }
        });
    }

    /// Submits every part now, so that their order against later operations is the client's.
    fn start_all<T>(&self, parts: impl IntoIterator<Item = (usize, Op, T)>) -> Vec<(Pending<Outcome>, T)> {
        let start = |(store, op, tag)| {
            let (answer, pending) = oneshot();
            self.deliver(store, None, op, answer);
            (pending, tag)
        };
        parts.into_iter().map(start).collect()
    }

    /// Hands an operation to a store, here or on its core.
    fn deliver(&self, store: usize, route: Option<Route>, op: Op, answer: Answer<Outcome>) {
        if let Some(why) = self.fenced.get(&store) {
            self.went.set(Went::Elsewhere);
            return answer.send(Err(Refusal::Stopped(why.clone())));
        }
        match (self.shard(store), self.whole.core_of.get(store)) {
            (Some(shard), _) => {
                self.went.set(Went::Elsewhere);
                shard.submit(route, op, Reply::local(answer));
            }
            (None, Some(&core)) => {
                self.went.set(match self.went.get() {
                    Went::Nowhere => Went::To(core),
                    Went::To(other) if other == core => Went::To(core),
                    Went::To(_) | Went::Elsewhere => Went::Elsewhere,
                });
                let answer = match planted(Bug::AnsweredEarly) && matches!(op, Op::Put { .. }) {
                    true => {
                        answer.send(Ok(Out::Done));
                        oneshot().0
                    }
                    false => answer,
                };
                self.links.forward(core, store, route, op, answer);
            }
            (None, None) => answer.send(Err(Refusal::RegionNotFound { region_id: 0 })),
        }
    }

    async fn receive(&self, inbox: Receiver<Vec<Message>>) {
        let mut batches = Vec::new();
        while inbox.recv_batch(&mut batches, BATCHES_MAX).await {
            for message in batches.drain(..).flatten() {
                match message {
                    Message::Request { from, id, store, route, op } => {
                        let reply = Reply::remote(from, id, self.links.clone());
                        match (self.shard(store), self.fenced.get(&store)) {
                            (Some(shard), _) => {
                                if planted(Bug::AppliedTwice) && matches!(op, Op::Modify { .. }) {
                                    shard.submit(route, op.clone(), Reply::local(oneshot().0));
                                }
                                shard.submit(route, op, reply);
                            }
                            (None, Some(why)) => reply.send(Err(Refusal::Stopped(why.clone()))),
                            (None, None) => reply.send(Err(Refusal::RegionNotFound { region_id: 0 })),
                        }
                    }
                    Message::Answer { id, outcome } => self.links.arrived(id, outcome),
                    Message::Closed { from } => self.links.closed(from),
                }
            }
        }
    }

    /// Takes an operation apart along region boundaries.
    fn split(&self, op: Op) -> Parts {
        let routes = self.routes.borrow();
        match op {
            Op::Get { ref key }
            | Op::Put { ref key, .. }
            | Op::Delete { ref key, .. }
            | Op::Modify { ref key, .. } => match routes.find(key) {
                Some(place) => Parts::One(place.store, op),
                None => Parts::Nowhere,
            },
            Op::BatchGet { keys, at_once } => {
                let parts = split_reads(&routes, keys.clone(), |keys| Op::BatchGet { keys, at_once });
                parts.map_or(Parts::Nowhere, |parts| Parts::Get(parts, keys))
            }
            Op::Lengths { keys } => {
                let len = keys.len();
                let parts = split_reads(&routes, keys, |keys| Op::Lengths { keys });
                parts.map_or(Parts::Nowhere, |parts| Parts::Lengths(parts, len))
            }
            Op::BatchPut { pairs } => {
                let parts = by_region(&routes, pairs, |(key, _)| key);
                Parts::write(
                    parts
                        .map(|parts| parts.into_iter().map(|(store, pairs)| (store, Op::BatchPut { pairs }))),
                )
            }
            Op::BatchDelete { keys } => {
                let parts = by_region(&routes, keys, |key| key);
                Parts::write(
                    parts.map(|parts| {
                        parts.into_iter().map(|(store, keys)| (store, Op::BatchDelete { keys }))
                    }),
                )
            }
            Op::DeleteRange { start, end } => {
                let parts = ranges(&routes, start, &end);
                Parts::write(parts.map(|parts| parts.into_iter()))
            }
            Op::Scan(scan) => Parts::Scan(scan),
            Op::Atomic(atomic) => match one_place(&routes, &atomic.keys()) {
                Ok(store) => Parts::One(store, Op::Atomic(atomic)),
                Err(refusal) => Parts::Refused(refusal),
            },
            Op::Watch { keys } => match one_place(&routes, &keys) {
                Ok(store) => Parts::One(store, Op::Watch { keys }),
                Err(refusal) => Parts::Refused(refusal),
            },
        }
    }

    /// Puts the values of several regions together.
    ///
    /// No part waits for room while another holds some: where one finds none, all let go of what they have, and the whole is read
    /// again in its turn ([`Memory::spread`]).
    async fn join_values(&self, parts: Vec<(Pending<Outcome>, Vec<usize>)>, keys: Vec<Bytes>) -> Outcome {
        let bytes_max = self.memory.answer_bytes_max();
        match join_values(parts, keys.len(), bytes_max).await? {
            Out::NoRoom => {}
            values => return Ok(values),
        }
        // What can never be answered does not wait for its turn.
        if let Parts::Lengths(parts, len) = self.split(Op::Lengths { keys: keys.clone() })
            && let Out::Lengths(lengths) = join_lengths(self.start_all(parts), len).await?
        {
            let mut answer = AnswerBytes::new(bytes_max, 0);
            lengths.into_iter().flatten().try_for_each(|length| answer.add(charged_length(length)))?;
        }
        let _turn = self.memory.spread.wait(&self.rt, 1).await?;
        match self.split(Op::BatchGet { keys, at_once: false }) {
            Parts::Get(parts, keys) => join_values(self.start_all(parts), keys.len(), bytes_max).await,
            Parts::Nowhere => Err(Refusal::RegionNotFound { region_id: 0 }),
            Parts::Refused(refusal) => Err(refusal),
            Parts::One(..) | Parts::Scan(_) | Parts::Lengths(..) | Parts::Write(_) => {
                unreachable!("values were asked for")
            }
        }
    }

    /// Scans region by region until the limit or the end of the range. As with values, a scan that holds pairs of one region does not
    /// wait for room in the next one, unless it is its turn.
    async fn scan(&self, scan: Scan) -> Outcome {
        match self.scan_regions(scan.clone(), true).await? {
            Out::NoRoom => {}
            pairs => return Ok(pairs),
        }
        let _turn = self.memory.spread.wait(&self.rt, 1).await?;
        self.scan_regions(scan, false).await
    }

    async fn scan_regions(&self, mut scan: Scan, at_once: bool) -> Outcome {
        let (mut pairs, wanted) = (Vec::new(), scan.limit);
        while pairs.len() < wanted && (scan.end.is_empty() || scan.start < scan.end) {
            let from = if scan.reverse { &scan.end } else { &scan.start };
            let found = {
                let routes = self.routes.borrow();
                if scan.reverse { routes.find_before(from).cloned() } else { routes.find(from).cloned() }
            };
            let Some(place) = found else { return Err(Refusal::RegionNotFound { region_id: 0 }) };
            scan.limit = (wanted - pairs.len()).min(SCAN_CHUNK);
            scan.at_once = at_once && !pairs.is_empty();
            let Some(part) = self.scan_region(&place, &scan).await? else { return Ok(Out::NoRoom) };
            let whole = part.len() < scan.limit;
            let last = part.last().map(|(key, _)| key.clone());
            // Each region refuses what would be too large together with what is here already.
            scan.held_bytes += part.iter().map(|(key, value)| charged_pair_bytes(key, value)).sum::<usize>();
            pairs.extend(part);
            if !advance(&mut scan, &place, whole, last) {
                break;
            }
        }
        Ok(Out::Pairs(pairs))
    }

    /// The pairs of one region; nothing if there is no room for them and the scan asks not to wait.
    async fn scan_region(&self, place: &Place, scan: &Scan) -> Result<Option<Vec<(Bytes, Bytes)>>, Refusal> {
        let (answer, pending) = oneshot();
        self.deliver(place.store, None, Op::Scan(scan.clone()), answer);
        match pending.await.unwrap_or(Err(Refusal::Unknown))? {
            Out::Pairs(pairs) => Ok(Some(pairs)),
            Out::NoRoom => Ok(None),
            other => unreachable!("a scan was answered with {other:?}"),
        }
    }
}

/// Moves a scan past what it has; `false` at the end of the key space. `whole` says that the region gave all it had, else
/// the scan continues after the `last` key.
fn advance(scan: &mut Scan, place: &Place, whole: bool, last: Option<Bytes>) -> bool {
    match (scan.reverse, whole, last) {
        (false, false, Some(key)) => {
            // The smallest key above `key`.
            let mut next = Vec::with_capacity(key.len() + 1);
            next.extend_from_slice(&key);
            next.push(0);
            scan.start = next.into();
            true
        }
        (true, false, Some(key)) => {
            scan.end = key;
            !scan.end.is_empty()
        }
        (false, ..) => {
            scan.start = place.end.clone();
            !scan.start.is_empty()
        }
        (true, ..) => {
            scan.end = place.start.clone();
            !scan.end.is_empty()
        }
    }
}

/// A store, what to read there, and the positions of the keys in the whole answer.
type Read = (usize, Op, Vec<usize>);

/// The size of a batch of writes as one command, bytes.
fn command_bytes(op: &Op) -> usize {
    match op {
        Op::BatchPut { pairs } => {
            encoded_bytes(pairs.len(), pairs.iter().map(|(key, value)| key.len() + value.len()).sum())
        }
        Op::BatchDelete { keys } => encoded_bytes(keys.len(), keys.iter().map(Bytes::len).sum()),
        // Of one region, which checks it when it is admitted.
        Op::Get { .. }
        | Op::BatchGet { .. }
        | Op::Lengths { .. }
        | Op::Put { .. }
        | Op::Delete { .. }
        | Op::DeleteRange { .. }
        | Op::Modify { .. }
        | Op::Atomic(_)
        | Op::Watch { .. }
        | Op::Scan(_) => 0,
    }
}

/// An operation taken apart.
enum Parts {
    One(usize, Op),
    Nowhere,
    Refused(Refusal),
    Scan(Scan),
    /// Reads with the positions of their keys in the answer, and all keys.
    Get(Vec<Read>, Vec<Bytes>),
    /// The same for lengths, and how many.
    Lengths(Vec<Read>, usize),
    Write(Vec<(usize, Op)>),
}

impl Parts {
    fn write(parts: Option<impl Iterator<Item = (usize, Op)>>) -> Self {
        let Some(parts) = parts else { return Parts::Nowhere };
        let mut parts: Vec<_> = parts.collect();
        if parts.len() == 1 {
            let (store, op) = parts.remove(0);
            return Parts::One(store, op);
        }
        Parts::Write(parts)
    }
}

/// The store of the one region that has all of `keys`.
fn one_place(routes: &Routes, keys: &[Bytes]) -> Result<usize, Refusal> {
    let nowhere = Refusal::RegionNotFound { region_id: 0 };
    let Some((first, rest)) = keys.split_first() else {
        return Err(Refusal::Invalid("a transaction without keys".to_owned()));
    };
    let place = routes.find(first).ok_or(nowhere)?;
    let outside = |key: &&Bytes| **key < place.start || (!place.end.is_empty() && **key >= place.end);
    match rest.iter().find(outside) {
        None => Ok(place.store),
        Some(other) => Err(Refusal::SpansRegions { one: first.clone(), other: other.clone() }),
    }
}

fn split_reads(routes: &Routes, keys: Vec<Bytes>, read: impl Fn(Vec<Bytes>) -> Op) -> Option<Vec<Read>> {
    let places = keys.into_iter().enumerate().collect();
    let parts = by_region(routes, places, |(_, key): &(usize, Bytes)| key)?;
    let parts = parts.into_iter().map(|(store, places)| {
        let (positions, keys) = places.into_iter().unzip();
        (store, read(keys), positions)
    });
    Some(parts.collect())
}

/// Groups `items` by the region of their key, in the order of each region's first item; `None` if a key has no region here.
fn by_region<T>(routes: &Routes, items: Vec<T>, key: impl Fn(&T) -> &Bytes) -> Option<Vec<(usize, Vec<T>)>> {
    let mut parts: Vec<(u64, usize, Vec<T>)> = Vec::new();
    // Keys of one command mostly lie together, so the region of the one before is looked at first.
    let mut latest: Option<(&Place, usize)> = None;
    for item in items {
        if let Some((_, at)) = latest.filter(|(place, _)| place.contains(key(&item))) {
            parts[at].2.push(item);
            continue;
        }
        let place = routes.find(key(&item))?;
        let at = parts.iter().position(|(region, ..)| *region == place.region_id).unwrap_or_else(|| {
            parts.push((place.region_id, place.store, Vec::new()));
            parts.len() - 1
        });
        parts[at].2.push(item);
        latest = Some((place, at));
    }
    Some(parts.into_iter().map(|(_, store, part)| (store, part)).collect())
}

/// One range deletion per region that `[start, end)` touches.
fn ranges(routes: &Routes, mut start: Bytes, end: &Bytes) -> Option<Vec<(usize, Op)>> {
    let mut parts = Vec::new();
    while end.is_empty() || start < *end {
        let place = routes.find(&start)?;
        let last = place.end.is_empty() || (!end.is_empty() && *end <= place.end);
        let upto = if last { end.clone() } else { place.end.clone() };
        parts.push((place.store, Op::DeleteRange { start, end: upto }));
        if last {
            break;
        }
        start = place.end.clone();
    }
    Some(parts)
}

/// Has a read answered with [`Out::NoRoom`] rather than wait.
fn ask_at_once(op: &mut Op) {
    match op {
        Op::BatchGet { at_once, .. } => *at_once = true,
        other => unreachable!("{other:?} is no part of a read of values"),
    }
}

/// The values of all parts, or [`Out::NoRoom`] if one has none.
async fn join_values(parts: Vec<(Pending<Outcome>, Vec<usize>)>, len: usize, bytes_max: usize) -> Outcome {
    let (mut values, mut answer) = (vec![None; len], AnswerBytes::new(bytes_max, 0));
    for (pending, positions) in parts {
        let part = match pending.await.unwrap_or(Err(Refusal::Unknown))? {
            Out::Values(part) => part,
            Out::NoRoom => return Ok(Out::NoRoom),
            other => unreachable!("a batch read was answered with {other:?}"),
        };
        part.iter().flatten().try_for_each(|value| answer.add(charged_bytes(value)))?;
        positions.into_iter().zip(part).for_each(|(position, value)| values[position] = value);
    }
    Ok(Out::Values(values))
}

async fn join_lengths(parts: Vec<(Pending<Outcome>, Vec<usize>)>, len: usize) -> Outcome {
    let mut lengths = vec![None; len];
    for (pending, positions) in parts {
        let Out::Lengths(part) = pending.await.unwrap_or(Err(Refusal::Unknown))? else {
            unreachable!("a read of lengths was answered with something else");
        };
        positions.into_iter().zip(part).for_each(|(position, length)| lengths[position] = length);
    }
    Ok(Out::Lengths(lengths))
}

async fn join_done(parts: Vec<(Pending<Outcome>, ())>) -> Outcome {
    let mut first_refusal = None;
    for (pending, ()) in parts {
        if let Err(refusal) = pending.await.unwrap_or(Err(Refusal::Unknown)) {
            first_refusal.get_or_insert(refusal);
        }
    }
    // Another region's part may be durable although this one was refused: only the caller can tell what that means.
    first_refusal.map_or(Ok(Out::Done), Err)
}
