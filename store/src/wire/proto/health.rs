//! Package `grpc.health.v1`.

use prost::Message;

/// Asks for a service by name; an empty name means the whole server.
#[derive(Clone, PartialEq, Message)]
pub struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub service: String,
}

/// `status`: 0 unknown, 1 serving, 2 not serving, 3 no such service.
#[derive(Clone, PartialEq, Message)]
pub struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    pub status: i32,
}
