//! Calls over several keys of one region, over the TiKV protocol: what they come to is heard key by key.

use std::collections::BTreeMap;

use bytes::Bytes;
use scheduler::Region;
use store::wire::grpc::client::Client;
use store::wire::proto::kvrpcpb::{
    Context, KvPair, RawBatchPutRequest, RawBatchPutResponse, RawScanRequest, RawScanResponse,
};
use store::wire::proto::metapb;

use super::{Called, refused, send};
use crate::sim::judge::{Action, Heard};

/// What came of a call over one or more keys.
#[derive(Debug)]
pub enum Answer {
    /// It was carried out; what each key says.
    Heard(Vec<Heard>),
    /// It has not happened; who leads, if that was said.
    Refused(Option<metapb::Peer>),
    /// It may have happened.
    Lost,
}

/// Asks for one key, for several that are all written, or for several that are all read, by a scan of their region.
///
/// # Errors
/// The answer is an error that has no place here.
pub async fn send_all(
    client: &Client,
    context: Option<Context>,
    region: &Region,
    asks: &[(&'static str, Action)],
    by_swap: bool,
) -> Result<Answer, String> {
    match asks {
        [(key, action)] => Ok(match send(client, context, key, action, by_swap).await? {
            Called::Heard(heard) => Answer::Heard(vec![heard]),
            Called::Refused(leader) => Answer::Refused(leader),
            Called::Lost => Answer::Lost,
        }),
        [(_, Action::Get), ..] => scan(client, context, region, asks).await,
        _ => put(client, context, asks).await,
    }
}

async fn put(
    client: &Client,
    context: Option<Context>,
    asks: &[(&'static str, Action)],
) -> Result<Answer, String> {
    let pair = |(key, action): &(&'static str, Action)| match action {
        Action::Set(value) => {
            let (key, value) = (Bytes::from_static(key.as_bytes()), value.clone().into());
            KvPair { key, value, ..KvPair::default() }
        }
        Action::Get | Action::Delete | Action::Increment | Action::Swap(..) => {
            unreachable!("only writes go together")
        }
    };
    let pairs = asks.iter().map(pair).collect();
    let ask = RawBatchPutRequest { context, pairs, ..RawBatchPutRequest::default() };
    match client.unary::<RawBatchPutResponse>("/tikvpb.Tikv/RawBatchPut", &ask).await {
        Ok(done) if done.region_error.is_none() && done.error.is_empty() => {
            Ok(Answer::Heard(asks.iter().map(|_| Heard::Done).collect()))
        }
        Ok(done) => of_error(done.region_error, done.error),
        Err(_) => Ok(Answer::Lost),
    }
}

async fn scan(
    client: &Client,
    context: Option<Context>,
    region: &Region,
    asks: &[(&'static str, Action)],
) -> Result<Answer, String> {
    let bytes = |key: &scheduler::Key| Bytes::copy_from_slice(key.as_bytes());
    let (start_key, end_key) = (bytes(region.range.start()), bytes(region.range.end()));
    let ask = RawScanRequest { context, start_key, end_key, limit: 1000, ..RawScanRequest::default() };
    let got = match client.unary::<RawScanResponse>("/tikvpb.Tikv/RawScan", &ask).await {
        Ok(got) => got,
        Err(_) => return Ok(Answer::Lost),
    };
    if got.region_error.is_some() {
        return of_error(got.region_error, String::new());
    }
    let in_order = got.kvs.windows(2).all(|pair| pair[0].key < pair[1].key);
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text was written");
    let found: BTreeMap<String, String> =
        got.kvs.iter().map(|pair| (text(&pair.key), text(&pair.value))).collect();
    if !in_order || found.keys().any(|key| !region.range.contains(key.as_bytes())) {
        return Err(format!("a scan of {} came to {:?}", region.id, found.keys()));
    }
    Ok(Answer::Heard(asks.iter().map(|(key, _)| Heard::Value(found.get(*key).cloned())).collect()))
}

fn of_error(
    region_error: Option<store::wire::proto::errorpb::Error>,
    error: String,
) -> Result<Answer, String> {
    match region_error {
        Some(error) => Ok(match refused(error)? {
            Called::Refused(leader) => Answer::Refused(leader),
            Called::Heard(_) | Called::Lost => Answer::Lost,
        }),
        None => Err(error),
    }
}
