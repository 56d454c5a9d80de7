//! Regions that clients cut, before they load data or where they know what is hot.
//!
//! | keys | stored, and cut at |
//! |---|---|
//! | raw, API V1 | as they are |
//! | raw, API V2 | [encoded](crate::keyspace), those of the keyspace |
//! | others | encoded, because those who send them decode every border |
//!
//! Bounds: a request names [`KEYS_MAX`] keys of [`KEYS_BYTES_MAX`] together, which are one entry of the region's log.

use bytes::Bytes;
use scheduler::Key;

use super::check::Refused;
use super::command::{Session, route};
use super::failure::Failure;
use super::keys::Keys;
use crate::keyspace;
use crate::wire::proto::kvrpcpb::{SplitRegionRequest, SplitRegionResponse};
use crate::wire::proto::metapb;

/// Keys of one request.
const KEYS_MAX: usize = 256;
/// Length of all keys of one request, bytes.
const KEYS_BYTES_MAX: usize = 1 << 20;

impl Session<'_> {
    pub(super) async fn cut(&self, request: SplitRegionRequest) -> Result<SplitRegionResponse, Failure> {
        let SplitRegionRequest { context, split_key, split_keys, is_raw_kv } = request;
        let of_version = Keys::of(context.as_ref())?;
        let sent = if split_keys.is_empty() { vec![split_key] } else { split_keys };
        let bytes: usize = sent.iter().map(Bytes::len).sum();
        if sent.len() > KEYS_MAX || bytes > KEYS_BYTES_MAX || sent.iter().any(Bytes::is_empty) {
            let sentence = format!(
                "name 1 to {KEYS_MAX} keys that are not empty and have {KEYS_BYTES_MAX} bytes together, not {} of {bytes}",
                sent.len()
            );
            return Err(Failure::Text(sentence));
        }
        let border = |key: Bytes| -> Result<Key, Refused> {
            let stored = if is_raw_kv { of_version.stored(key)? } else { keyspace::encode(&key).into() };
            Ok(Key::from(&stored[..]))
        };
        let keys: Vec<Key> = sent.into_iter().map(border).collect::<Result<_, _>>()?;
        let cut = self.core.gateway.cut(&route(context.as_ref()), keys).await;
        let regions = cut.map_err(|refusal| self.failure(context.as_ref(), refusal))?;
        let regions: Vec<metapb::Region> = regions.iter().map(metapb::Region::from).collect();
        let (left, right) = match &regions[..] {
            [left, right] => (Some(left.clone()), Some(right.clone())),
            _ => (None, None),
        };
        Ok(SplitRegionResponse { left, right, regions, region_error: None })
    }
}
