//! Why a listener cannot be bound, with the remedy that fits.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

/// A listener that could not be bound.
#[derive(Debug)]
pub struct CannotListen<'a> {
    /// What would have listened, such as `RESP`.
    pub what: &'a str,
    /// Where.
    pub addr: SocketAddr,
    /// The setting of its port.
    pub port_key: &'a str,
    /// What the kernel said.
    pub error: &'a io::Error,
}

impl fmt::Display for CannotListen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, addr, port_key, error } = self;
        write!(f, "{what} address {addr}: {error}: ")?;
        match error.kind() {
            ErrorKind::AddrNotAvailable => write!(
                f,
                "no interface of this host has {}: set listen to an address of this host (ip addr shows them)",
                addr.ip()
            ),
            ErrorKind::PermissionDenied => {
                write!(f, "set {port_key} to a port above 1023, or grant CAP_NET_BIND_SERVICE")
            }
            _ => write!(f, "set {port_key} to a free port (ss -ltnp shows who holds it)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_remedy() {
        let said = |kind: ErrorKind| {
            let addr = "10.9.9.9:6380".parse().expect("an address");
            CannotListen { what: "RESP", addr, port_key: "resp_port", error: &kind.into() }.to_string()
        };
        let foreign = said(ErrorKind::AddrNotAvailable);
        assert!(foreign.contains("set listen") && !foreign.contains("resp_port"), "{foreign}");
        assert!(said(ErrorKind::AddrInUse).contains("set resp_port to a free port"));
        assert!(said(ErrorKind::PermissionDenied).contains("above 1023"));
        assert!(said(ErrorKind::AddrInUse).starts_with("RESP address 10.9.9.9:6380"));
    }
}
