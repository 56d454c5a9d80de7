//! Reflection: what a port says it serves is what it serves, and can be read without any file of ours.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::FileDescriptorProto;
use store::gateway::Gateway;
use store::wire::grpc::client::{Call, Client};
use store::wire::grpc::{self, CallShape, Code, Options, Service};
use store::wire::health::HealthService;
use store::wire::pd::Pd;
use store::wire::proto::reflection_v1::server_reflection_request::MessageRequest;
use store::wire::proto::reflection_v1::server_reflection_response::MessageResponse;
use store::wire::proto::reflection_v1::*;
use store::wire::reflection::{V1, V1_ALPHA};
use store::wire::tikv::Tikv;

use crate::grpc::{STORE, on_core, serve_pd, serve_tikv};

async fn ask(call: &mut Call, question: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: "here".into(), message_request: Some(question) };
    call.outbox.send(grpc::frame(&request)).await.unwrap();
    let answer = call.inbox.next().await.unwrap().unwrap().bytes;
    let answer = ServerReflectionResponse::decode(answer).unwrap();
    assert_eq!((answer.valid_host.as_str(), answer.original_request), ("here", Some(request)));
    answer.message_response.unwrap()
}

/// The files that an answer holds, by name.
fn files(answer: MessageResponse) -> BTreeMap<String, FileDescriptorProto> {
    let MessageResponse::FileDescriptorResponse(found) = answer else { panic!("{answer:?}") };
    let decode = |bytes: &bytes::Bytes| FileDescriptorProto::decode(bytes.clone()).unwrap();
    found.file_descriptor_proto.iter().map(decode).map(|file| (file.name().to_owned(), file)).collect()
}

/// Walks a port as a tool does: services, then the file of each, with everything that it needs. Every method found must be one
/// that `service` knows, in the same shape.
async fn walk(client: &Client, path: &str, service: &impl Service) -> BTreeSet<String> {
    let mut call = client.open(path).await.unwrap();
    let MessageResponse::ListServicesResponse(list) =
        ask(&mut call, MessageRequest::ListServices(String::new())).await
    else {
        panic!("a list was asked for")
    };
    let names: BTreeSet<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in &names {
        let found = files(ask(&mut call, MessageRequest::FileContainingSymbol(name.clone())).await);
        for import in found.values().flat_map(|file| &file.dependency) {
            assert!(found.contains_key(import), "{name}: {import} is imported and not sent");
        }
        let (package, short) = name.rsplit_once('.').unwrap();
        let declares = |file: &&FileDescriptorProto| file.package() == package;
        let file = found.values().find(declares).unwrap();
        let declared = file.service.iter().find(|declared| declared.name() == short).unwrap();
        for method in &declared.method {
            let path = format!("/{name}/{}", method.name());
            let (_, shape) = service.method(&path).unwrap_or_else(|| panic!("{path} is not served"));
            let streams = method.client_streaming() || method.server_streaming();
            assert_eq!(shape == CallShape::Bidi, streams, "{path}");
        }
    }
    call.outbox.finish().unwrap();
    assert!(call.inbox.next().await.unwrap().is_none());
    call.finish().await.unwrap();
    names
}

#[test]
fn both_ports_show_tools_what_they_serve() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    on_core(|rt| async move {
        let (tikv, _server, _) = serve_tikv(&rt, Options::default());
        let (pd, control) = serve_pd(&rt, &path, tikv).await;
        let (store, placement) =
            (Client::connect(&rt, tikv).await.unwrap(), Client::connect(&rt, pd).await.unwrap());
        let tikv = Tikv::new(&rt, Gateway::in_memory(), STORE, HealthService::default());
        let pd = Pd::new(control, HealthService::default());
        for path in [V1, V1_ALPHA] {
            let names = walk(&store, path, &tikv).await;
            assert!(names.contains("tikvpb.Tikv") && names.contains("grpc.health.v1.Health"), "{names:?}");
            let names = walk(&placement, path, &pd).await;
            assert!(names.contains("pdpb.PD") && names.contains("etcdserverpb.KV"), "{names:?}");
        }
    });
}

#[test]
fn files_are_found_by_name_and_by_what_they_declare() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let mut call = client.open(V1).await.unwrap();
        let found = files(ask(&mut call, MessageRequest::FileByFilename("kvrpcpb.proto".into())).await);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["errorpb.proto", "kvrpcpb.proto", "metapb.proto"]);
        for symbol in ["kvrpcpb.RawGetRequest", "kvrpcpb.APIVersion"] {
            let found = files(ask(&mut call, MessageRequest::FileContainingSymbol(symbol.into())).await);
            assert!(found.contains_key("kvrpcpb.proto"), "{symbol}");
        }
        let question = MessageRequest::AllExtensionNumbersOfType("kvrpcpb.Context".into());
        let MessageResponse::AllExtensionNumbersResponse(none) = ask(&mut call, question).await else {
            panic!("numbers were asked for")
        };
        assert_eq!((none.base_type_name.as_str(), none.extension_number.len()), ("kvrpcpb.Context", 0));
        for question in [
            MessageRequest::FileByFilename("nowhere.proto".into()),
            MessageRequest::FileContainingSymbol("kvrpcpb".into()),
            MessageRequest::FileContainingExtension(ExtensionRequest::default()),
            MessageRequest::AllExtensionNumbersOfType("kvrpcpb.Nothing".into()),
        ] {
            let MessageResponse::ErrorResponse(error) = ask(&mut call, question.clone()).await else {
                panic!("{question:?} has no answer")
            };
            assert_eq!(error.error_code, Code::NotFound as i32, "{question:?}");
        }
    });
}
