//! Clients on nodes of their own: RESP in pipelines, and gRPC as a TiKV client does it, with routes from PD.
//!
//! Every request must get one answer, or its connection must close. A pipeline ends with an ECHO of its own, so an answer that is
//! missing, or one too many, is noticed where it happens. A client whose node lost its power hears nothing, so it gives up when
//! the test says that this life has ended.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::{Rt, Stream};
use store::wire::grpc::client::Client;
use store::wire::proto::kvrpcpb::{
    Context, RawDeleteRequest, RawDeleteResponse, RawGetRequest, RawGetResponse, RawPutRequest,
    RawPutResponse,
};
use store::wire::proto::pdpb::{
    GetMembersRequest, GetMembersResponse, GetRegionRequest, GetRegionResponse, RequestHeader,
};

use super::Shared;
use bench::sim::judge::{Action, Asked, Heard};

/// Longer than a connection survives without any acknowledgement: whoever waits this long was forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// How often a client that waits looks whether its node still lives.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// The longest pipeline.
const PIPELINE_MAX: u64 = 8;

/// Registers and counters, so that every region has some.
pub(super) const REGISTERS: [&str; 10] = ["0a", "0b", "5a", "Aa", "Ka", "Kb", "Ua", "aa", "za", "zb"];
pub(super) const COUNTERS: [&str; 4] = ["1n", "Bn", "Vn", "yn"];

/// What became of a wait.
pub(super) enum Waited<T> {
    Got(T),
    /// The connection is of no more use.
    Gone,
}

/// Waits for `work` as long as the node can answer.
pub(super) async fn wait_for<T>(
    rt: &Rt,
    shared: &Shared,
    life: u64,
    what: &str,
    work: impl Future<Output = T>,
) -> Waited<T> {
    let (mut work, began) = (pin!(work), rt.now());
    loop {
        if let Some(got) = rt.timeout(LOOK, work.as_mut()).await {
            return Waited::Got(got);
        }
        if shared.was_cut(life) {
            return Waited::Gone;
        }
        if rt.now().since(began) > FORGOTTEN {
            shared.fail(format!("life {life}: {what} was neither answered nor its connection closed"));
            return Waited::Gone;
        }
    }
}

fn draw(rt: &Rt, below: u64) -> u64 {
    rt.random() % below
}

/// What one client draws its operations from.
struct Hand {
    rt: Rt,
    name: String,
    written: u64,
}

impl Hand {
    fn value(&mut self) -> String {
        self.written += 1;
        let padding = draw(&self.rt, 600) as usize;
        format!("{}-{}-{}", self.name, self.written, ".".repeat(padding))
    }

    fn draw(&mut self, counts: bool) -> (&'static str, Action) {
        if counts && draw(&self.rt, 3) == 0 {
            let key = COUNTERS[draw(&self.rt, COUNTERS.len() as u64) as usize];
            return (key, if draw(&self.rt, 4) == 0 { Action::Get } else { Action::Increment });
        }
        let key = REGISTERS[draw(&self.rt, REGISTERS.len() as u64) as usize];
        let action = match draw(&self.rt, 10) {
            0..4 => Action::Get,
            4 => Action::Delete,
            _ => Action::Set(self.value()),
        };
        (key, action)
    }
}

/// A RESP client, until the test is done.
pub(super) async fn resp(rt: Rt, number: usize, shared: Rc<Shared>) {
    let mut hand = Hand { rt: rt.clone(), name: format!("r{number}"), written: 0 };
    while !shared.is_done() {
        let Some((life, addresses)) = shared.serving() else {
            rt.sleep(LOOK).await;
            continue;
        };
        let connected =
            wait_for(&rt, &shared, life, "a connection", rt.connect(shared.reach(addresses.resp))).await;
        let Waited::Got(Ok(stream)) = connected else {
            rt.sleep(LOOK).await;
            continue;
        };
        let mut session = Session { rt: rt.clone(), life, shared: shared.clone(), stream, input: Vec::new() };
        while !shared.is_done() {
            let operations: Vec<_> = (0..1 + draw(&rt, PIPELINE_MAX)).map(|_| hand.draw(true)).collect();
            if !session.pipeline(operations, &format!("{number}-{}", hand.written)).await {
                break;
            }
            if draw(&rt, 4) == 0 {
                rt.sleep(Duration::from_millis(draw(&rt, 20))).await;
            }
        }
    }
}

/// Reads every key once, in a life that has nothing else to do.
pub(super) async fn read_all(rt: Rt, shared: Rc<Shared>) {
    let (life, addresses) = shared.serving().expect("the last life serves");
    // The weather may break a connection, but not this many.
    for _ in 0..20 {
        let Ok(stream) = rt.connect(shared.reach(addresses.resp)).await else { continue };
        let mut session = Session { rt: rt.clone(), life, shared: shared.clone(), stream, input: Vec::new() };
        let gets = REGISTERS.iter().chain(&COUNTERS).map(|key| (*key, Action::Get)).collect();
        if session.pipeline(gets, "last").await {
            return;
        }
    }
    shared.fail("the last reads were not answered".to_owned());
}

struct Session {
    rt: Rt,
    life: u64,
    shared: Rc<Shared>,
    stream: Stream,
    input: Vec<u8>,
}

enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<String>),
}

impl Session {
    /// Sends operations at once and takes their answers. Whether the connection is still of use.
    async fn pipeline(&mut self, operations: Vec<(&'static str, Action)>, token: &str) -> bool {
        let mut bytes = Vec::new();
        let mut asked: Vec<(Asked, Action)> = Vec::new();
        let mut latest: BTreeMap<&str, Asked> = BTreeMap::new();
        for (key, action) in operations {
            match &action {
                Action::Get => command(&mut bytes, &["GET", key]),
                Action::Set(value) => command(&mut bytes, &["SET", key, value]),
                Action::Delete => command(&mut bytes, &["DEL", key]),
                Action::Increment => command(&mut bytes, &["INCR", key]),
                Action::Swap(..) => unreachable!("it is not drawn here"),
            }
            let this = self.shared.ask(key, action.clone(), latest.get(key));
            latest.insert(key, this.clone());
            asked.push((this, action));
        }
        command(&mut bytes, &["ECHO", token]);
        let (rt, shared, life) = (self.rt.clone(), self.shared.clone(), self.life);
        let written = wait_for(&rt, &shared, life, "a write", self.stream.write_all(&bytes)).await;
        if !matches!(written, Waited::Got(Ok(()))) {
            return false;
        }
        for (asked, action) in asked {
            let Some(reply) = self.reply().await else { return false };
            self.take(&asked, &action, reply);
        }
        match self.reply().await {
            Some(Reply::Bulk(Some(echoed))) if echoed == token => {}
            Some(_) => self.shared.fail(format!("the answers of pipeline {token} are not in step")),
            None => return false,
        }
        if !self.input.is_empty() {
            self.shared.fail(format!("pipeline {token} was answered with more than was asked"));
        }
        true
    }

    fn take(&self, asked: &Asked, action: &Action, reply: Reply) {
        let heard = match (action, reply) {
            (Action::Get, Reply::Bulk(value)) => Heard::Value(value),
            (Action::Set(_), Reply::Simple(text)) if text == "OK" => Heard::Done,
            (Action::Delete, Reply::Integer(count)) => Heard::Existed(count == 1),
            (Action::Increment, Reply::Integer(value)) => Heard::Integer(value),
            // Whether it happened is not said.
            (_, Reply::Error(text)) => return self.shared.refused(self.life, &text),
            (_, Reply::Simple(_) | Reply::Integer(_) | Reply::Bulk(_)) => {
                return self.shared.fail(format!("{action:?} was answered with something else"));
            }
        };
        self.shared.hear(asked, heard);
    }

    /// The next reply; nothing once the connection is gone.
    async fn reply(&mut self) -> Option<Reply> {
        let line = self.line().await?;
        let (kind, rest) = line.split_at(1);
        match kind {
            "+" => Some(Reply::Simple(rest.to_owned())),
            "-" => Some(Reply::Error(rest.to_owned())),
            ":" => Some(Reply::Integer(rest.parse().expect("an integer"))),
            "$" if rest == "-1" => Some(Reply::Bulk(None)),
            "$" => {
                let bytes = rest.parse::<usize>().expect("a length") + 2;
                while self.input.len() < bytes {
                    self.read_more().await?;
                }
                let mut text: Vec<u8> = self.input.drain(..bytes).collect();
                text.truncate(bytes - 2);
                Some(Reply::Bulk(Some(String::from_utf8(text).expect("text was written"))))
            }
            other => panic!("a reply begins with {other:?}"),
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
                let mut line: Vec<u8> = self.input.drain(..end + 2).collect();
                line.truncate(end);
                return Some(String::from_utf8(line).expect("a line of text"));
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> Option<()> {
        let mut buffer = [0; 4096];
        let (rt, shared, life) = (self.rt.clone(), self.shared.clone(), self.life);
        match wait_for(&rt, &shared, life, "a pipeline", self.stream.read(&mut buffer)).await {
            Waited::Got(Ok(count)) if count > 0 => {
                self.input.extend_from_slice(&buffer[..count]);
                Some(())
            }
            Waited::Got(Ok(_) | Err(_)) | Waited::Gone => None,
        }
    }
}

fn command(into: &mut Vec<u8>, words: &[&str]) {
    into.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        into.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

/// A gRPC client, until the test is done.
pub(super) async fn grpc(rt: Rt, number: usize, shared: Rc<Shared>) {
    let mut hand = Hand { rt: rt.clone(), name: format!("g{number}"), written: 0 };
    while !shared.is_done() {
        let Some((life, addresses)) = shared.serving() else {
            rt.sleep(LOOK).await;
            continue;
        };
        let connecting = async {
            let pd = Client::connect(&rt, shared.reach(addresses.pd)).await.ok()?;
            let mut stores = Vec::new();
            for addr in &addresses.stores {
                stores.push(Client::connect(&rt, shared.reach(*addr)).await.ok()?);
            }
            let members: GetMembersResponse =
                pd.unary("/pdpb.PD/GetMembers", &GetMembersRequest::default()).await.ok()?;
            Some((pd, stores, members.header?.cluster_id))
        };
        let connected = wait_for(&rt, &shared, life, "a gRPC connection", connecting).await;
        let Waited::Got(Some((pd, stores, cluster_id))) = connected else {
            rt.sleep(LOOK).await;
            continue;
        };
        let calls = Calls { rt: rt.clone(), life, shared: shared.clone(), pd, stores, cluster_id };
        while !shared.is_done() {
            let (key, action) = hand.draw(false);
            if !calls.call(key, action).await {
                break;
            }
        }
    }
}

struct Calls {
    rt: Rt,
    life: u64,
    shared: Rc<Shared>,
    pd: Client,
    stores: Vec<Client>,
    cluster_id: u64,
}

impl Calls {
    /// One operation. Whether the connections are still of use.
    async fn call(&self, key: &'static str, action: Action) -> bool {
        let asking = self.route(key);
        let Waited::Got(Some((store, context))) =
            wait_for(&self.rt, &self.shared, self.life, "a question to PD", asking).await
        else {
            return false;
        };
        let asked = self.shared.ask(key, action.clone(), None);
        let calling = self.send(&self.stores[store], Some(context), key, &action);
        match wait_for(&self.rt, &self.shared, self.life, "a call", calling).await {
            Waited::Got(Ok(heard)) => {
                self.shared.hear(&asked, heard);
                true
            }
            Waited::Got(Err(Some(refusal))) => {
                self.shared.refused(self.life, &refusal);
                true
            }
            Waited::Got(Err(None)) | Waited::Gone => false,
        }
    }

    /// The place of the store that leads the key's region, and what a request says about the route.
    async fn route(&self, key: &'static str) -> Option<(usize, Context)> {
        let header = Some(RequestHeader { cluster_id: self.cluster_id, sender_id: 0 });
        let ask = GetRegionRequest { header, region_key: key.into(), need_buckets: false };
        let found: GetRegionResponse = self.pd.unary("/pdpb.PD/GetRegion", &ask).await.ok()?;
        let (region, leader) = (found.region?, found.leader?);
        let store = usize::try_from(leader.store_id).ok()? - 1;
        let context = Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: Some(leader),
            ..Context::default()
        };
        Some((store, context))
    }

    /// What the store said; nothing if the call ended without an answer.
    async fn send(
        &self,
        store: &Client,
        context: Option<Context>,
        key: &'static str,
        action: &Action,
    ) -> Result<Heard, Option<String>> {
        let key = key.into();
        let (heard, region_error, error) = match action {
            Action::Get => {
                let ask = RawGetRequest { context, key, ..RawGetRequest::default() };
                let got: RawGetResponse = store.unary("/tikvpb.Tikv/RawGet", &ask).await.map_err(|_| None)?;
                let text = String::from_utf8(got.value.to_vec()).expect("text was written");
                (Heard::Value((!got.not_found).then_some(text)), got.region_error, got.error)
            }
            Action::Set(value) => {
                let value = value.clone().into();
                let ask = RawPutRequest { context, key, value, ..RawPutRequest::default() };
                let done: RawPutResponse =
                    store.unary("/tikvpb.Tikv/RawPut", &ask).await.map_err(|_| None)?;
                (Heard::Done, done.region_error, done.error)
            }
            Action::Delete => {
                let ask = RawDeleteRequest { context, key, ..RawDeleteRequest::default() };
                let done: RawDeleteResponse =
                    store.unary("/tikvpb.Tikv/RawDelete", &ask).await.map_err(|_| None)?;
                (Heard::Done, done.region_error, done.error)
            }
            Action::Increment => unreachable!("the TiKV protocol does not count"),
            Action::Swap(..) => unreachable!("it is not drawn here"),
        };
        match (region_error, error.is_empty()) {
            (None, true) => Ok(heard),
            (Some(region_error), _) => Err(Some(format!("{region_error:?}"))),
            (None, false) => Err(Some(error)),
        }
    }
}

/// Where a listener of the node is reached from other nodes.
pub(super) fn reach(ip: std::net::IpAddr, bound: SocketAddr) -> SocketAddr {
    SocketAddr::new(ip, bound.port())
}
