//! The standard health service. Clients ask it on a fresh connection, and a store that does not say SERVING within a second
//! counts as gone.

use std::cell::Cell;
use std::rc::Rc;

use super::proto::health::{HealthCheckRequest, HealthCheckResponse};

/// The path of the only method.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;
const SERVICE_UNKNOWN: i32 = 3;

/// Whether a server wants calls. Clones share the answer; stays on its core.
#[derive(Clone, Debug)]
pub struct Health(Rc<Cell<bool>>);

impl Default for Health {
    fn default() -> Self {
        Self(Rc::new(Cell::new(true)))
    }
}

impl Health {
    /// Says from now on whether the server wants calls, for example no more once it drains or its disk has failed.
    pub fn set_serving(&self, serving: bool) {
        self.0.set(serving);
    }

    /// Answers a check of the whole server or of one of its `services`.
    pub(crate) fn check(&self, request: &HealthCheckRequest, services: &[&str]) -> HealthCheckResponse {
        let known = request.service.is_empty() || services.contains(&request.service.as_str());
        let status = match (known, self.0.get()) {
            (false, _) => SERVICE_UNKNOWN,
            (true, true) => SERVING,
            (true, false) => NOT_SERVING,
        };
        HealthCheckResponse { status }
    }
}
