//! Server reflection: tools ask what a port serves instead of carrying the protocol files.
//!
//! Both versions of the protocol have the same messages under two names, so one implementation serves both. It owns nothing:
//! everything it says was compiled in ([`super::proto::descriptors`]).

use std::collections::BTreeSet;

use prost::Message;

use super::grpc::{CallOutbox, Code, Inbox, Status, answer};
use super::proto::descriptors::{self, File};
use super::proto::reflection_v1::server_reflection_request::MessageRequest;
use super::proto::reflection_v1::server_reflection_response::MessageResponse;
use super::proto::reflection_v1::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
    ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
};

/// The service as it is named now.
pub const V1: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// The service as most tools still call it.
pub const V1_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// Maximum length of a request, bytes: a name.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// What every port serves beside its own services.
const COMMON: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Answers each question once, in order, on a port that serves `services`.
pub(crate) async fn serve(
    inbox: &mut Inbox,
    outbox: &mut CallOutbox,
    services: &[&str],
) -> Result<(), Status> {
    while let Some(message) = inbox.next().await? {
        let request = ServerReflectionRequest::decode(message.bytes)
            .map_err(|error| Status::invalid(format!("the request cannot be decoded: {error}")))?;
        outbox.send(answer(&reflect(request, services))?).await?;
    }
    Ok(())
}

fn reflect(request: ServerReflectionRequest, services: &[&str]) -> ServerReflectionResponse {
    let found = match &request.message_request {
        None => Err(error(Code::InvalidArgument, "the request asks for nothing")),
        Some(MessageRequest::ListServices(_)) => Ok(list(services)),
        Some(MessageRequest::FileByFilename(name)) => files(descriptors::by_name(name), "file", name),
        Some(MessageRequest::FileContainingSymbol(name)) => {
            files(descriptors::by_symbol(name), "symbol", name)
        }
        Some(MessageRequest::FileContainingExtension(asked)) => {
            Err(error(Code::NotFound, &format!("message {:?} has no extensions", asked.containing_type)))
        }
        Some(MessageRequest::AllExtensionNumbersOfType(name)) => match descriptors::by_symbol(name) {
            None => Err(error(Code::NotFound, &format!("there is no symbol {name:?}"))),
            Some(_) => Ok(MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                base_type_name: name.clone(),
                extension_number: Vec::new(),
            })),
        },
    };
    ServerReflectionResponse {
        valid_host: request.host.clone(),
        message_response: Some(found.unwrap_or_else(MessageResponse::ErrorResponse)),
        original_request: Some(request),
    }
}

fn list(services: &[&str]) -> MessageResponse {
    let service = |name: &&str| ServiceResponse { name: (*name).to_owned() };
    let service = services.iter().chain(&COMMON).map(service).collect();
    MessageResponse::ListServicesResponse(ListServiceResponse { service })
}

/// A file and all that it imports, each once.
fn files(found: Option<&'static File>, kind: &str, name: &str) -> Result<MessageResponse, ErrorResponse> {
    let first = found.ok_or_else(|| error(Code::NotFound, &format!("there is no {kind} {name:?}")))?;
    let (mut seen, mut next, mut all) = (BTreeSet::new(), vec![first], Vec::new());
    while let Some(file) = next.pop() {
        if seen.insert(file.name) {
            all.push(file.encoded.into());
            next.extend(file.imports.iter().filter_map(|import| descriptors::by_name(import)));
        }
    }
    Ok(MessageResponse::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto: all }))
}

fn error(code: Code, sentence: &str) -> ErrorResponse {
    ErrorResponse { error_code: code as i32, error_message: sentence.to_owned() }
}
