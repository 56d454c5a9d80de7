//! The generated messages against the protocol as it was written by hand before: names, tags, types and bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use store::wire::proto::{
    coprocessor, descriptors, errorpb, etcdserverpb, health, kvrpcpb, meta_storagepb, metapb, pdpb, tikvpb,
};

const FIXTURE: &str = include_str!("../fixtures/protocol.txt");

/// A message of the fixture: its fields as lines, and the bytes of one that has them all.
#[derive(Default)]
struct Known {
    fields: Vec<String>,
    filled: Option<Vec<u8>>,
}

fn known() -> BTreeMap<String, Known> {
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let mut name = String::new();
    for line in FIXTURE.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("  ") {
            None => name = line.to_owned(),
            Some(field) => match field.strip_prefix('=') {
                None => known.entry(name.clone()).or_default().fields.push(field.to_owned()),
                Some(hex) => known.entry(name.clone()).or_default().filled = Some(bytes_of(hex.trim())),
            },
        }
    }
    known
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().map(|digit| u8::try_from(digit.to_digit(16).expect("hex")).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Every message that is declared now, by its full name.
fn declared() -> BTreeMap<String, DescriptorProto> {
    fn note(outer: &str, message: &DescriptorProto, all: &mut BTreeMap<String, DescriptorProto>) {
        let name = format!("{outer}.{}", message.name());
        for inner in &message.nested_type {
            note(&name, inner, all);
        }
        all.insert(name, message.clone());
    }
    let mut all = BTreeMap::new();
    for file in descriptors::FILES {
        let file = FileDescriptorProto::decode(file.encoded).unwrap();
        for message in &file.message_type {
            note(file.package(), message, &mut all);
        }
    }
    all
}

/// A field as the fixture writes it: tag, label, type, name.
fn line(field: &FieldDescriptorProto, messages: &BTreeMap<String, DescriptorProto>) -> String {
    let name = || field.type_name().trim_start_matches('.').to_owned();
    let kind = match field.r#type() {
        Type::Uint64 => "uint64".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Uint32 => "uint32".to_owned(),
        Type::Int32 | Type::Enum => "int32".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::String => "string".to_owned(),
        Type::Bytes => "bytes".to_owned(),
        Type::Message => name(),
        other => panic!("{}: no field was of type {other:?}", field.name()),
    };
    let entry = messages.get(&kind).filter(|message| message.options.as_ref().is_some_and(|o| o.map_entry()));
    if let Some(entry) = entry {
        let value = entry.field[1].type_name().trim_start_matches('.');
        return format!("{} map uint64 {value} {}", field.number(), field.name());
    }
    let label = if field.label() == Label::Repeated { "repeated " } else { "" };
    format!("{} {label}{kind} {}", field.number(), field.name())
}

#[test]
fn every_tag_type_and_name_is_the_one_that_was_written_by_hand() {
    let (known, declared) = (known(), declared());
    assert_eq!(known.len(), 152);
    for (name, was) in &known {
        let now = declared.get(name).unwrap_or_else(|| panic!("{name} is not declared"));
        let mut fields: Vec<&FieldDescriptorProto> = now.field.iter().collect();
        fields.sort_by_key(|field| field.number());
        let now: Vec<String> = fields.into_iter().map(|field| line(field, &declared)).collect();
        assert_eq!(now, was.fields, "{name}");
    }
}

/// Decodes a message and encodes it again.
type Codec = fn(&[u8]) -> Vec<u8>;

fn codec<M: Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(Bytes::copy_from_slice(bytes)).expect("what was written by hand decodes").encode_to_vec()
}

macro_rules! again {
    ($codecs:ident, $package:literal, $module:ident: $($message:ident)*) => {
        $($codecs.insert(
            concat!($package, ".", stringify!($message)).to_lowercase(),
            codec::<$module::$message> as Codec,
        );)*
    };
}

/// By full name in lower case, because Rust spells abbreviations in its own way.
fn codecs() -> BTreeMap<String, Codec> {
    let mut codecs: BTreeMap<String, Codec> = BTreeMap::new();
    again!(codecs, "coprocessor", coprocessor:
        Request Response);
    again!(codecs, "errorpb", errorpb:
        DiskFull EpochNotMatch Error KeyNotInRegion MismatchPeerId NotLeader RaftEntryTooLarge
        RegionNotFound ServerIsBusy StaleCommand StoreNotMatch UndeterminedResult);
    again!(codecs, "etcdserverpb", etcdserverpb:
        Member MemberListResponse RangeResponse ResponseHeader);
    again!(codecs, "grpc.health.v1", health:
        HealthCheckRequest HealthCheckResponse);
    again!(codecs, "kvrpcpb", kvrpcpb:
        BatchGetRequest BatchGetResponse BatchRollbackRequest BatchRollbackResponse BufferBatchGetRequest
        BufferBatchGetResponse CheckSecondaryLocksRequest CheckSecondaryLocksResponse CheckTxnStatusRequest
        CheckTxnStatusResponse CleanupRequest CleanupResponse CommitRequest CommitResponse Context
        DeleteRangeRequest DeleteRangeResponse FlashbackToVersionRequest FlashbackToVersionResponse
        FlushRequest FlushResponse GcRequest GcResponse GetHealthFeedbackRequest GetHealthFeedbackResponse
        GetRequest GetResponse HealthFeedback KeyError KeyRange KvPair PessimisticLockRequest
        PessimisticLockResponse PessimisticRollbackRequest PessimisticRollbackResponse
        PrepareFlashbackToVersionRequest PrepareFlashbackToVersionResponse PrewriteRequest PrewriteResponse
        RawBatchDeleteRequest RawBatchDeleteResponse RawBatchGetRequest RawBatchGetResponse
        RawBatchPutRequest RawBatchPutResponse RawBatchScanRequest RawBatchScanResponse RawCasRequest
        RawCasResponse RawCoprocessorRequest RawCoprocessorResponse RawDeleteRangeRequest
        RawDeleteRangeResponse RawDeleteRequest RawDeleteResponse RawGetKeyTtlRequest RawGetKeyTtlResponse
        RawGetRequest RawGetResponse RawPutRequest RawPutResponse RawScanRequest RawScanResponse
        ResolveLockRequest ResolveLockResponse ScanLockRequest ScanLockResponse ScanRequest ScanResponse
        TxnHeartBeatRequest TxnHeartBeatResponse);
    again!(codecs, "meta_storagepb", meta_storagepb:
        GetResponse);
    again!(codecs, "metapb", metapb:
        Cluster Peer Region RegionEpoch Store StoreLabel);
    again!(codecs, "pdpb", pdpb:
        AllocIdRequest AllocIdResponse AskSplitRequest AskSplitResponse BatchScanRegionsRequest
        BatchScanRegionsResponse BootstrapRequest BootstrapResponse Error GetAllStoresRequest
        GetAllStoresResponse GetClusterConfigRequest GetClusterConfigResponse GetClusterInfoResponse
        GetGcSafePointRequest GetGcSafePointResponse GetMembersRequest GetMembersResponse
        GetRegionByIdRequest GetRegionRequest GetRegionResponse GetStoreRequest GetStoreResponse
        IsBootstrappedRequest IsBootstrappedResponse KeyRange Member PeerStats PutStoreRequest
        PutStoreResponse QueryRegionRequest QueryRegionResponse Region RegionHeartbeatRequest
        RegionHeartbeatResponse RegionResponse RequestHeader ResponseHeader ScanRegionsRequest
        ScanRegionsResponse StoreHeartbeatRequest StoreHeartbeatResponse StoreStats Timestamp TsoRequest
        TsoResponse UpdateGcSafePointRequest UpdateGcSafePointResponse);
    again!(codecs, "tikvpb", tikvpb:
        BatchCommandsEmptyRequest BatchCommandsEmptyResponse BatchCommandsRequest BatchCommandsResponse);
    codecs
}

#[test]
fn bytes_that_were_written_by_hand_decode_and_encode_to_themselves() {
    let mut codecs = codecs();
    for (name, was) in known() {
        let Some(filled) = was.filled else {
            // Without bytes of their own: the two that lie inside a batch, with every command.
            assert!(name.starts_with("tikvpb.BatchCommands"), "{name} has no bytes");
            continue;
        };
        let again = codecs.remove(&name.to_lowercase()).unwrap_or_else(|| panic!("{name} is not tried"));
        assert_eq!(again(&filled), filled, "{name}");
    }
    assert!(codecs.is_empty(), "no bytes for {:?}", codecs.keys());
}

#[test]
fn descriptors_come_after_what_they_import_and_know_their_symbols() {
    for (at, file) in descriptors::FILES.iter().enumerate() {
        for import in file.imports {
            let found = descriptors::FILES[..at].iter().any(|earlier| earlier.name == *import);
            assert!(found, "{} comes before {import}", file.name);
        }
        let decoded = FileDescriptorProto::decode(file.encoded).unwrap();
        assert_eq!(decoded.name(), file.name);
        assert!(decoded.source_code_info.is_none(), "comments are not sent to clients");
        for symbol in file.symbols {
            assert_eq!(descriptors::by_symbol(symbol).unwrap().name, file.name, "{symbol}");
        }
    }
    let file = |symbol| descriptors::by_symbol(symbol).map(|file| file.name);
    assert_eq!(file("tikvpb.Tikv.RawGet"), Some("tikvpb.proto"));
    assert_eq!(file("tikvpb.BatchCommandsRequest.Request"), Some("tikvpb.proto"));
    assert_eq!(file("metapb.PeerRole"), Some("metapb.proto"));
    assert_eq!(file("metapb"), None);
    assert_eq!(descriptors::by_name("pdpb.proto").unwrap().services, ["pdpb.PD"]);
}
