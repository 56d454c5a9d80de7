//! What is known and not served, refused in the shape that the sender of each command looks at.
//!
//! A batch has no status per command, and a command whose answer has no content looks like a fault of the transport. So the
//! sentence goes where that command's own errors go, as one that ends the transaction: a retry is pointless.

use crate::wire::proto::coprocessor;
use crate::wire::proto::kvrpcpb::{self, KeyError, KvPair};

fn sentence(command: &str) -> String {
    format!("command {command} is not served here: this server has the raw key-value API; use a raw client")
}

fn key_error(command: &str) -> KeyError {
    KeyError { abort: sentence(command), ..KeyError::default() }
}

/// An answer that has a place for the error of a command which is not served.
pub(super) trait Unserved {
    /// The answer that refuses `command`.
    fn unserved(command: &str) -> Self;
}

macro_rules! unserved {
    ($command:ident => $($response:ident)*: $answer:tt) => {
        $(impl Unserved for kvrpcpb::$response {
            fn unserved($command: &str) -> Self {
                Self $answer
            }
        })*
    };
}

unserved!(command => GetResponse CommitResponse CleanupResponse BatchRollbackResponse ScanLockResponse ResolveLockResponse GcResponse
    CheckTxnStatusResponse TxnHeartBeatResponse CheckSecondaryLocksResponse BufferBatchGetResponse:
    { error: Some(key_error(command)) });
unserved!(command => PrewriteResponse PessimisticLockResponse PessimisticRollbackResponse FlushResponse:
    { errors: vec![key_error(command)] });
unserved!(command => ScanResponse BatchGetResponse:
    { pairs: vec![KvPair { error: Some(Box::new(key_error(command))), ..KvPair::default() }] });
unserved!(command => DeleteRangeResponse RawCoprocessorResponse FlashbackToVersionResponse PrepareFlashbackToVersionResponse:
    { error: sentence(command) });

impl Unserved for coprocessor::Response {
    fn unserved(command: &str) -> Self {
        Self { other_error: sentence(command) }
    }
}
