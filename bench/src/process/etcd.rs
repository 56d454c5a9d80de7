//! An etcd cluster as child processes, every member durable as etcd is by default.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use engine::rt::native as world;
use prost::Message;
use store::wire::grpc::client::Client;

use super::{Process, START_MAX, free_ports};
use crate::Failed;
use crate::clock::{now, pause};

/// Bytes of data that a member may hold before it refuses writes; far above what any run here writes.
const QUOTA_BYTES: u64 = 8 << 30;

/// Running members. Dropping it kills them.
#[derive(Debug)]
pub struct Etcd {
    /// Every member's process.
    pub members: Vec<Process>,
    /// Where each member serves clients, in the order of `members`.
    pub addrs: Vec<SocketAddr>,
}

impl Etcd {
    /// Starts `members` members with directories below `directory` and waits until they have a leader.
    ///
    /// # Errors
    /// etcd is not installed, a member ends, or there is no leader within a minute.
    pub fn start(directory: &Path, members: usize) -> Result<Self, Failed> {
        std::fs::create_dir_all(directory)?;
        let ports = free_ports(2 * members)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (client_ports, peer_ports) = ports.split_at(members);
        let all: Vec<String> =
            peer_ports.iter().enumerate().map(|(n, port)| format!("m{n}={}", url(*port))).collect();
        let mut this = Self { members: Vec::new(), addrs: Vec::new() };
        for (n, (client, peer)) in client_ports.iter().zip(peer_ports).enumerate() {
            let (client_url, peer_url) = (url(*client), url(*peer));
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("m{n}"), "--data-dir"]).arg(directory.join(format!("m{n}")));
            command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
            command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
            command.args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"]);
            command.args(["--quota-backend-bytes", &QUOTA_BYTES.to_string(), "--log-level", "error"]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            this.members.push(Process::spawn("etcd (Debian package etcd-server)", &mut command)?);
            this.addrs.push(SocketAddr::from(([127, 0, 0, 1], *client)));
        }
        this.leader()?;
        Ok(this)
    }

    /// Where the leader serves, which is where writes are cheapest.
    ///
    /// # Errors
    /// A member has ended, or there is no leader within a minute.
    pub fn leader(&mut self) -> Result<SocketAddr, Failed> {
        let began = now();
        loop {
            if let Some(addr) = self.addrs.iter().copied().find(|addr| leads(*addr)) {
                return Ok(addr);
            }
            for member in &mut self.members {
                if let Some(how) = member.ended() {
                    return Err(Failed::new(format!("a member of etcd ended: {how}")));
                }
            }
            if began.elapsed() > START_MAX {
                return Err(Failed::new("etcd has no leader"));
            }
            pause(Duration::from_millis(20));
        }
    }
}

/// The part of etcd's `StatusResponse` that says who leads.
#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// A request without fields.
#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

/// Whether a member answers at `addr` and holds itself for the leader.
fn leads(addr: SocketAddr) -> bool {
    let asked = world::start_core(&engine::rt::CoreOptions::default(), move |rt| async move {
        let client = Client::connect(&rt, addr).await.ok()?;
        let status: StatusResponse =
            client.unary("/etcdserverpb.Maintenance/Status", &StatusRequest {}).await.ok()?;
        Some(status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader))
    });
    asked.ok().flatten().unwrap_or(false)
}
