//! What is known and not served, refused in the shape that the sender of each command looks at.
//!
//! A batch has no status per command, and a command whose answer has no content looks like a fault of the transport. So the
//! sentence goes where that command's own errors go, as one that ends the transaction: trying again is pointless.

use crate::wire::proto::kvrpcpb::{KeyError, KvPair};
use crate::wire::proto::tikvpb::{CoprocessorRefusal, KeyRefusal, PairRefusal, TextRefusal};

fn sentence(command: &str) -> String {
    format!("command {command} is not served here: this server has the raw key-value API; use a raw client")
}

fn key_error(command: &str) -> KeyError {
    KeyError { abort: sentence(command), ..KeyError::default() }
}

pub(super) fn key_refusal(command: &str) -> KeyRefusal {
    KeyRefusal { error: Some(key_error(command)) }
}

pub(super) fn pair_refusal(command: &str) -> PairRefusal {
    let pair = KvPair { error: Some(Box::new(key_error(command))), ..KvPair::default() };
    PairRefusal { pairs: vec![pair] }
}

pub(super) fn text_refusal(command: &str) -> TextRefusal {
    TextRefusal { error: sentence(command) }
}

pub(super) fn coprocessor_refusal(command: &str) -> CoprocessorRefusal {
    CoprocessorRefusal { other_error: sentence(command) }
}
