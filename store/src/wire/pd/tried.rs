//! What comes of a call to several places of which none answers: why each does not, and what that says to whoever calls.
//!
//! The reasons are not alike. Where a member answers that does not reach the host, nothing is wrong with the address and a host comes soon;
//! where a secret is not proved, the next call comes to the same; otherwise nothing answers. Pure.

use std::fmt;

use crate::wire::grpc::{Code, Status};
use crate::wire::peer::link::LinkError;

/// What every node says that does not host the scheduler and does not reach it: members answer, and none of them is the host. Clients of TiKV in Go
/// look for the words "is not served" to ask another member.
pub const NOT_HOSTED: &str = "the scheduler is not served by this node";

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The scheduler refuses it; the same call is refused again.
    Refused(Status),
    /// Members answer, and none of them hosts the scheduler at this moment; each with what it says.
    NoHost(String),
    /// Nothing that was asked answers now; each address with its reason.
    Unreachable(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => f.write_str(&status.message),
            Self::NoHost(why) => write!(
                f,
                "no node hosts the scheduler at this moment: one is being elected, or it moves. That takes a few seconds, and a majority of the \
                 nodes that keep its state: {why}"
            ),
            Self::Unreachable(why) => write!(f, "no member of the cluster answers: {why}"),
        }
    }
}

impl std::error::Error for CallError {}

/// Why another place may be tried.
pub(super) enum Elsewhere {
    /// It is not reached, or does not answer as the host does.
    Unreached(String),
    /// A member that is not the host and does not reach it.
    NotHost(String),
    /// The two do not have the same secret.
    Unproven(String),
}

impl Elsewhere {
    pub(super) fn io(error: std::io::Error) -> Self {
        Self::Unreached(error.to_string())
    }
}

/// What has come of the places that were asked.
#[derive(Default)]
pub(super) struct Tried {
    reasons: Vec<String>,
    /// Of one the reason is the secret.
    is_unproven: bool,
    /// One is a member that does not reach the host.
    is_member: bool,
}

impl Tried {
    pub(super) fn note(&mut self, place: &str, why: Elsewhere) {
        let why = match why {
            Elsewhere::Unreached(why) => why,
            Elsewhere::NotHost(why) => {
                self.is_member = true;
                why
            }
            Elsewhere::Unproven(why) => {
                self.is_unproven = true;
                why
            }
        };
        self.reasons.push(format!("{place}: {why}"));
    }

    pub(super) fn error(self) -> CallError {
        let Self { reasons, is_unproven, is_member } = self;
        let reasons = reasons.join("; ");
        match (is_member, is_unproven) {
            // One that has the same secret answers, so it is not the secret.
            (true, _) => CallError::NoHost(reasons),
            // Another member might have had the same secret; where none has, the next call comes to the same.
            (false, true) => CallError::Refused(Status::new(Code::Unauthenticated, reasons)),
            (false, false) => CallError::Unreachable(reasons),
        }
    }
}

/// Why the other side of a connection has not proved the secret. Whoever said nothing is no other node without one: it is gone.
pub(super) fn not_proved(error: LinkError) -> Elsewhere {
    match error {
        LinkError::Refused(why) => Elsewhere::Unproven(why),
        LinkError::Rejected(why) => Elsewhere::Unproven(why.to_string()),
        LinkError::Io(_) | LinkError::Closed | LinkError::Timeout | LinkError::NoAddress => {
            Elsewhere::Unreached(format!(
                "a connection is taken there and ends without a word ({error}): its node has died or is stopping, or it is no node"
            ))
        }
        // An older version without a secret does not say so.
        LinkError::BadFrame(_)
        | LinkError::Unexpected(_)
        | LinkError::BadRequests(_)
        | LinkError::Unwanted(_) => Elsewhere::Unreached(format!(
            "it does not prove the cluster_secret that is set here ({error}): if none is set there, set cluster_secret_file to the same \
             secret on every node, or on none"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_places_that_were_asked_in_vain_names_what_is_wrong() {
        let of = |all: Vec<Elsewhere>| {
            let mut tried = Tried::default();
            all.into_iter().for_each(|why| tried.note("a:1", why));
            tried.error()
        };
        let unreached = || Elsewhere::Unreached("refused".to_owned());
        let member = || Elsewhere::NotHost(format!("{NOT_HOSTED}, which does not answer"));
        let unproven = || Elsewhere::Unproven("no secret".to_owned());
        let none = of(vec![unreached(), unreached()]);
        assert_eq!(none, CallError::Unreachable("a:1: refused; a:1: refused".to_owned()));
        for all in [vec![unreached(), member()], vec![member(), unproven()]] {
            let error = of(all);
            assert!(matches!(error, CallError::NoHost(_)), "{error:?}");
            assert!(error.to_string().contains("being elected"), "{error}");
        }
        let CallError::Refused(status) = of(vec![unreached(), unproven()]) else {
            panic!("it is the secret")
        };
        assert_eq!(status.code, Code::Unauthenticated);
    }

    #[test]
    fn the_secret_is_blamed_only_where_something_was_said() {
        let said = |error| match not_proved(error) {
            Elsewhere::Unreached(why) | Elsewhere::Unproven(why) | Elsewhere::NotHost(why) => why,
        };
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        for error in [LinkError::Closed, LinkError::Timeout, LinkError::Io(broken)] {
            let why = said(error);
            assert!(why.contains("has died") && !why.contains("secret"), "{why}");
        }
        let why = said(LinkError::Unexpected(crate::wire::peer::frame::FrameKind::Piece));
        assert!(why.contains("cluster_secret"), "{why}");
    }
}
