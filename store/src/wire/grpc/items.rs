//! How many things a request holds, counted before it is decoded: two bytes on the wire take a hundred once they are decoded.
//!
//! A request is walked with the shapes of its messages in hand ([`shapes`]), through every level, because a client may nest what it sends as
//! it likes, and a value of bytes may look like a message without being one. What is counted: every field on every level, and every
//! number of a packed field.
//!
//! Invariants: the walk allocates a place per level and no more; it ends with the first item that is too many, so it costs as much
//! as there may be items, however long the request is.

use prost::Name;
use prost::encoding::{WireType, decode_key, decode_varint};

use super::status::Status;
use crate::wire::proto::shapes::{self, Field, Shape};

/// Levels that are walked. The decoder refuses what is nested deeper.
const LEVELS_MAX: usize = 100;

/// Refuses a request that holds more than `items_max` fields and numbers, on all levels together.
///
/// # Errors
/// It holds more. What cannot be decoded passes; the decoder reports what is wrong with it.
pub fn bound_items<Q: Name>(message: &[u8], items_max: usize) -> Result<(), Status> {
    // The shortest field has two bytes, and the shortest number, which takes eight once it is decoded, one.
    if message.len() / 2 <= items_max {
        return Ok(());
    }
    count_items::<Q>(message, items_max).map(drop)
}

/// How many fields and numbers a request holds, on all levels together; nothing is counted of what cannot be decoded.
///
/// # Errors
/// It holds more than `items_max`.
pub fn count_items<Q: Name>(message: &[u8], items_max: usize) -> Result<usize, Status> {
    let shape = shapes::of(&Q::full_name()).expect("every message that is decoded is declared");
    match count(message, shape, items_max) {
        Some(items) if items > items_max => {
            let sentence =
                format!("a request of more than {items_max} items is over the bound; send fewer at once");
            Err(Status::invalid(sentence))
        }
        counted => Ok(counted.unwrap_or_default()),
    }
}

/// The items of a message, or some number above `items_max`; nothing if it cannot be decoded.
fn count(message: &[u8], shape: &Shape, items_max: usize) -> Option<usize> {
    let (mut levels, mut items) = (vec![(message, shape)], 0usize);
    while let Some((rest, shape)) = levels.last_mut() {
        if rest.is_empty() {
            levels.pop();
            continue;
        }
        let (number, kind) = decode_key(rest).ok()?;
        let field = shape.field(number);
        items += 1;
        let inner = match kind {
            WireType::Varint => {
                decode_varint(rest).ok()?;
                None
            }
            WireType::SixtyFourBit => skip(rest, 8).map(|_| None)?,
            WireType::ThirtyTwoBit => skip(rest, 4).map(|_| None)?,
            WireType::LengthDelimited => {
                let bytes = usize::try_from(decode_varint(rest).ok()?).ok()?;
                Some(skip(rest, bytes)?)
            }
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        match (field, inner) {
            (Some(Field::Message(inner_shape)), Some(inner)) if levels.len() < LEVELS_MAX => {
                levels.push((inner, &shapes::SHAPES[inner_shape].1));
            }
            (Some(Field::Message(_)), Some(_)) => return None,
            (Some(Field::Varints), Some(inner)) => {
                items += inner.iter().filter(|byte| **byte < 0x80).take(items_max + 1).count();
            }
            (Some(Field::Numbers(width)), Some(inner)) => items += inner.len() / width,
            // Bytes, text, a single number, or what is not declared here, which is skipped.
            (Some(_), None) | (None, Some(_) | None) => {}
        }
        if items > items_max {
            break;
        }
    }
    Some(items)
}

/// Takes `bytes` bytes off the front.
fn skip<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(bytes)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::wire::grpc::Code;
    use crate::wire::proto::kvrpcpb::{KvPair, RawBatchPutRequest, RawPutRequest};
    use crate::wire::proto::tikvpb::{BatchCommandsRequest, Command, Request};
    use crate::wire::proto::{metapb, pdpb, ringkeep};

    fn refused<Q: Name>(message: &[u8], items_max: usize) -> bool {
        match bound_items::<Q>(message, items_max) {
            Ok(()) => false,
            Err(status) => {
                assert_eq!(status.code, Code::InvalidArgument);
                assert!(status.message.contains(&format!("{items_max} items")), "{status}");
                true
            }
        }
    }

    fn pairs(count: usize) -> RawBatchPutRequest {
        RawBatchPutRequest { pairs: vec![KvPair::default(); count], ..RawBatchPutRequest::default() }
    }

    #[test]
    fn what_is_nested_counts_like_what_is_not() {
        let alone = pairs(1000).encode_to_vec();
        assert!(refused::<RawBatchPutRequest>(&alone, 999) && !refused::<RawBatchPutRequest>(&alone, 1000));
        let command = Request { cmd: Some(Command::RawBatchPut(pairs(1000))) };
        let nested = command.encode_to_vec();
        assert!(refused::<Request>(&nested, 1000) && !refused::<Request>(&nested, 1001));
        let whole = BatchCommandsRequest {
            requests: vec![command],
            request_ids: vec![7],
            ..BatchCommandsRequest::default()
        }
        .encode_to_vec();
        // The command, what it is, its pairs, and the id with its field.
        assert!(
            refused::<BatchCommandsRequest>(&whole, 1003) && !refused::<BatchCommandsRequest>(&whole, 1004)
        );
    }

    #[test]
    fn what_is_said_to_the_scheduler_counts_on_every_level() {
        let labels = vec![metapb::StoreLabel::default(); 500];
        let store = metapb::Store { labels, ..metapb::Store::default() };
        let put = pdpb::PutStoreRequest { store: Some(store), ..pdpb::PutStoreRequest::default() };
        assert!(refused::<pdpb::PutStoreRequest>(&put.encode_to_vec(), 500));
        let region =
            metapb::Region { peers: vec![metapb::Peer::default(); 500], ..metapb::Region::default() };
        let begin =
            pdpb::BootstrapRequest { region: Some(region.clone()), ..pdpb::BootstrapRequest::default() };
        assert!(refused::<pdpb::BootstrapRequest>(&begin.encode_to_vec(), 500));
        let split = pdpb::AskSplitRequest { region: Some(region), ..pdpb::AskSplitRequest::default() };
        assert!(refused::<pdpb::AskSplitRequest>(&split.encode_to_vec(), 500));
        let report = b"\x1a\x02\x52\x00".repeat(400);
        assert!(ringkeep::ReportRequest::decode(&report[..]).is_ok(), "the test's bytes are a request");
        assert!(refused::<ringkeep::ReportRequest>(&report, 500));
    }

    #[test]
    fn a_value_is_one_item_whatever_it_looks_like() {
        let value = b"\x12\x00".repeat(5000).into();
        let put = RawPutRequest { value, ..RawPutRequest::default() };
        let command = Request { cmd: Some(Command::RawPut(put)) };
        assert!(!refused::<Request>(&command.encode_to_vec(), 5));
    }

    #[test]
    fn packed_numbers_count_one_by_one() {
        let ids = BatchCommandsRequest { request_ids: vec![1; 3000], ..BatchCommandsRequest::default() }
            .encode_to_vec();
        assert!(refused::<BatchCommandsRequest>(&ids, 1000));
        assert!(!refused::<BatchCommandsRequest>(&ids, 3001));
    }

    #[test]
    fn what_cannot_be_decoded_is_left_to_the_decoder() {
        for broken in [&b"\x0a\xff\x01\0\0\0"[..], b"\x0b\0\0\0\0\0", b"\xff\xff\xff\xff\xff\xff"] {
            assert!(!refused::<RawBatchPutRequest>(broken, 1));
        }
    }

    #[test]
    fn every_message_is_found_by_its_name_and_leads_to_messages() {
        assert!(shapes::SHAPES.is_sorted_by(|a, b| a.0 < b.0));
        for (name, shape) in shapes::SHAPES {
            assert!(shapes::of(name).is_some_and(|found| std::ptr::eq(found, shape)), "{name}");
            for (_, field) in shape.0 {
                assert!(!matches!(field, Field::Message(place) if *place >= shapes::SHAPES.len()), "{name}");
            }
        }
        assert!(shapes::of(&Request::full_name()).is_some() && shapes::of("nothing").is_none());
    }
}
