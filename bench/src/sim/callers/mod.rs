//! Clients of a cluster in the simulator: what those over the TiKV protocol and those over RESP have in common.
//!
//! A call that is refused has not happened; one whose answer is lost, late or "unknown" may have.

pub mod anywhere;
mod several;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use scheduler::Region;
use store::wire::grpc::client::Client;
use store::wire::proto::errorpb;
use store::wire::proto::kvrpcpb::{
    Context, RawCasRequest, RawCasResponse, RawDeleteRequest, RawDeleteResponse, RawGetRequest,
    RawGetResponse, RawPutRequest, RawPutResponse,
};
use store::wire::proto::metapb;

pub use several::{Answer, send_all};

use crate::sim::judge::{Action, Heard, History};

/// What a run and its clients share.
#[derive(Debug, Default)]
pub struct Shared {
    /// What clients did and heard.
    pub history: RefCell<History>,
    /// The clients end.
    pub done: Cell<bool>,
    /// The clients ask nothing for a while.
    pub rests: Cell<bool>,
    /// How often a node refused a call over RESP that it could not bring to a leader.
    pub refused_anywhere: Cell<u64>,
    /// What the first of these was refused with.
    pub refusal_anywhere: RefCell<Option<String>>,
    /// How often such a call was carried out.
    pub answered_anywhere: Cell<u64>,
    /// Refusals that have no place here.
    pub failures: RefCell<Vec<String>>,
    /// The regions, for clients that know of them.
    pub regions: RefCell<Vec<Region>>,
    /// A node has a bad disk: it may refuse with any reason, and nothing follows from a refusal then.
    pub faulty: Cell<bool>,
}

impl Shared {
    /// Pauses between two calls, until the clients rest no more or are to end.
    pub async fn pause(&self, rt: &Rt) {
        rt.sleep(Duration::from_millis(10 + below(rt, 60))).await;
        while self.rests.get() && !self.done.get() {
            rt.sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What came of a call.
#[derive(Debug)]
pub enum Called {
    /// It was carried out.
    Heard(Heard),
    /// It has not happened; who leads, if that was said.
    Refused(Option<metapb::Peer>),
    /// It may have happened.
    Lost,
}

/// A number below `bound` that the seed decides.
pub fn below(rt: &Rt, bound: u64) -> u64 {
    rt.random() % bound
}

/// What a client does next: values that it writes begin with `name` and are never written twice.
pub fn draw(rt: &Rt, name: &str, written: &mut u64) -> Action {
    match below(rt, 10) {
        0..=3 => {
            *written += 1;
            Action::Set(format!("{name}-{written}"))
        }
        4 => Action::Delete,
        5..=9 => Action::Get,
        _ => unreachable!("it is below ten"),
    }
}

/// Asks over the TiKV protocol; reads by a comparison that fails if `by_swap`.
///
/// # Errors
/// The answer is an error that has no place here.
pub async fn send(
    client: &Client,
    context: Option<Context>,
    key: &str,
    action: &Action,
    by_swap: bool,
) -> Result<Called, String> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).expect("text was written");
    let (heard, region_error, error) = match action {
        // A comparison that fails says what there is, and writes nothing.
        Action::Get if by_swap => {
            let previous_value = Bytes::from_static(b"never written");
            let ask = RawCasRequest { context, key, previous_value, ..RawCasRequest::default() };
            match client.unary::<RawCasResponse>("/tikvpb.Tikv/RawCompareAndSwap", &ask).await {
                Ok(got) => {
                    let value = (!got.previous_not_exist).then(|| text(got.previous_value));
                    (Heard::Value(value), got.region_error, got.error)
                }
                Err(_) => return Ok(Called::Lost),
            }
        }
        Action::Get => {
            let ask = RawGetRequest { context, key, ..RawGetRequest::default() };
            match client.unary::<RawGetResponse>("/tikvpb.Tikv/RawGet", &ask).await {
                Ok(got) => {
                    (Heard::Value((!got.not_found).then(|| text(got.value))), got.region_error, got.error)
                }
                Err(_) => return Ok(Called::Lost),
            }
        }
        Action::Set(value) => {
            let value = value.clone().into();
            let ask = RawPutRequest { context, key, value, ..RawPutRequest::default() };
            match client.unary::<RawPutResponse>("/tikvpb.Tikv/RawPut", &ask).await {
                Ok(done) => (Heard::Done, done.region_error, done.error),
                Err(_) => return Ok(Called::Lost),
            }
        }
        Action::Delete => {
            let ask = RawDeleteRequest { context, key, ..RawDeleteRequest::default() };
            match client.unary::<RawDeleteResponse>("/tikvpb.Tikv/RawDelete", &ask).await {
                Ok(done) => (Heard::Done, done.region_error, done.error),
                Err(_) => return Ok(Called::Lost),
            }
        }
        Action::Swap(expected, value) => {
            let (previous_not_exist, previous_value) =
                (expected.is_none(), expected.clone().unwrap_or_default());
            let (value, previous_value) = (value.clone().into(), previous_value.into());
            let ask = RawCasRequest {
                context,
                key,
                value,
                previous_not_exist,
                previous_value,
                ..RawCasRequest::default()
            };
            match client.unary::<RawCasResponse>("/tikvpb.Tikv/RawCompareAndSwap", &ask).await {
                Ok(got) => {
                    let before = (!got.previous_not_exist).then(|| text(got.previous_value));
                    let heard = if got.succeed { Heard::Done } else { Heard::Value(before) };
                    (heard, got.region_error, got.error)
                }
                Err(_) => return Ok(Called::Lost),
            }
        }
        Action::Increment => unreachable!("the TiKV protocol does not count"),
    };
    match (region_error, error.is_empty()) {
        (None, true) => Ok(Called::Heard(heard)),
        (Some(error), _) => refused(error),
        (None, false) => Err(error),
    }
}

/// What a region error means for the call. Only those that an election or a moving region bring have a place here.
fn refused(error: errorpb::Error) -> Result<Called, String> {
    if error.undetermined_result.is_some() {
        return Ok(Called::Lost);
    }
    if let Some(not_leader) = &error.not_leader {
        return Ok(Called::Refused(not_leader.leader));
    }
    let moves = error.server_is_busy.is_some()
        || error.stale_command.is_some()
        || error.region_not_found.is_some()
        || error.epoch_not_match.is_some()
        || error.mismatch_peer_id.is_some()
        || error.store_not_match.is_some()
        || error.disk_full.is_some();
    if moves { Ok(Called::Refused(None)) } else { Err(format!("{error:?}")) }
}
