//! Compressed messages, sent and accepted by a published client.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::mpsc;

use bytes::{Buf, BufMut, Bytes};
use engine::rt::chan;
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use store::wire::grpc::client::Client;
use store::wire::grpc::{self, Code, Options};
use store::wire::proto::kvrpcpb::*;
use store::wire::proto::tikvpb::*;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

use crate::grpc::{BATCH, GET, PUT, get, on_core, put, serve_tikv};

/// Messages that were encoded elsewhere.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A client that compresses what it sends and accepts compressed answers.
async fn compressing(addr: SocketAddr) -> Grpc<Channel> {
    let channel = Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
    let client = Grpc::new(channel).max_decoding_message_size(64 << 20);
    client.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip)
}

/// One call; the answer and whether the server may compress what it answers.
async fn call<A: Message + Default>(
    client: &mut Grpc<Channel>,
    path: &'static str,
    request: &impl Message,
) -> (A, bool) {
    client.ready().await.unwrap();
    let request = tonic::Request::new(Bytes::from(request.encode_to_vec()));
    let answer = client.unary(request, PathAndQuery::from_static(path), Raw).await.unwrap();
    let compressed = answer.metadata().get("grpc-encoding").is_some_and(|name| name == "gzip");
    (A::decode(answer.into_inner()).unwrap(), compressed)
}

#[test]
fn a_client_that_compresses_is_served() {
    let (announce, addresses) = mpsc::channel();
    let (stop, stopped) = chan::queue::<()>(1);
    let server = std::thread::spawn(move || {
        on_core(move |rt| async move {
            let (addr, _server, _) = serve_tikv(&rt, Options::default());
            announce.send(addr).unwrap();
            stopped.recv().await;
        });
    });
    let addr = addresses.recv().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = compressing(addr).await;
        let large = Bytes::from("a value that repeats itself ".repeat(100_000));
        let request = RawPutRequest { value: large.clone(), ..put("large", "") };
        let (done, compressed): (RawPutResponse, bool) = call(&mut client, PUT, &request).await;
        assert_eq!((done.error.as_str(), compressed), ("", false), "a small answer is not compressed");
        let (found, compressed): (RawGetResponse, bool) = call(&mut client, GET, &get("large")).await;
        assert!(found.value == large && compressed, "a large one is");

        let message = |n: u64| {
            let commands = [Command::RawPut(put("k", "v")), Command::RawGet(get("large"))];
            let batch = BatchCommandsRequest {
                requests: commands.map(|command| Request { cmd: Some(command) }).to_vec(),
                request_ids: vec![2 * n, 2 * n + 1],
                client_send_time_ns: 0,
            };
            Bytes::from(batch.encode_to_vec())
        };
        client.ready().await.unwrap();
        // More messages in a row than a stream takes before it lets others run.
        let messages = tonic::Request::new(futures_util::stream::iter((0..40).map(message)));
        let stream = client.streaming(messages, PathAndQuery::from_static(BATCH), Raw).await.unwrap();
        let (mut stream, mut ids) = (stream.into_inner(), Vec::new());
        while let Some(answers) = stream.message().await.unwrap() {
            let answers = BatchCommandsResponse::decode(answers).unwrap();
            for (id, answer) in answers.request_ids.iter().zip(&answers.responses) {
                if let Some(Answer::RawGet(found)) = &answer.cmd {
                    assert!(found.value == large, "{id}");
                }
                ids.push(*id);
            }
        }
        ids.sort_unstable();
        assert_eq!(ids, (0..80).collect::<Vec<_>>());
    });
    drop(runtime);
    drop(stop);
    server.join().unwrap();
}

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(message).unwrap();
    encoder.finish().unwrap()
}

/// A message that says that it is compressed.
fn framed(compressed: &[u8]) -> Bytes {
    let mut body = vec![1];
    body.put_u32(u32::try_from(compressed.len()).unwrap());
    body.put_slice(compressed);
    body.into()
}

#[test]
fn a_bomb_and_an_unknown_encoding_end_their_call_alone() {
    on_core(|rt| async move {
        let options = Options { message_bytes_max: 1 << 20, ..Options::default() };
        let memory = options.memory.clone();
        let (addr, _server, _) = serve_tikv(&rt, options);
        let client = Client::connect(&rt, addr).await.unwrap();
        let ask = async |encoding: &str, body: &Bytes| {
            client.unary_raw_with(PUT, body.clone(), &[("grpc-encoding", encoding)]).await
        };
        let bomb = framed(&gzip(&vec![0; 200 << 20]));
        let refused = ask("gzip", &bomb).await.unwrap_err();
        assert_eq!(refused.code, Code::ResourceExhausted, "{refused}");
        assert!(refused.message.contains("1048576"), "{refused}");
        let small = framed(&gzip(&put("k", "v").encode_to_vec()));
        let refused = ask("deflate", &small).await.unwrap_err();
        assert_eq!(refused.code, Code::Unimplemented, "{refused}");
        let refused = ask("identity", &small).await.unwrap_err();
        assert_eq!(refused.code, Code::Internal, "{refused}");
        ask("gzip", &small).await.unwrap();
        // A message that is not compressed may come in a call that could compress it.
        ask("gzip", &grpc::frame(&put("k", "w"))).await.unwrap();
        let found: RawGetResponse = client.unary(GET, &get("k")).await.unwrap();
        assert_eq!(&*found.value, b"w");
        assert_eq!(memory.input.used(), 0, "what was inflated has been given back");
    });
}
