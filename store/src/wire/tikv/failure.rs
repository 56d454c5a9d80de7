//! Why a request has no result, and how each response says so.

use crate::wire::grpc::{Code, Status};
use crate::wire::proto::errorpb;
use crate::wire::proto::kvrpcpb::*;

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    /// The client shall look again where the region is, or wait.
    Region(Box<errorpb::Error>),
    /// The request can never be carried out.
    Text(String),
    /// Its answer would be over a bound; a smaller request can be carried out.
    TooLarge(String),
}

impl From<String> for Failure {
    fn from(sentence: String) -> Self {
        Failure::Text(sentence)
    }
}

/// A response that can say why it has no result.
pub(super) trait Refusable: Sized {
    /// Within a batch, where the response is all that there is.
    fn refused(failure: Failure) -> Self;

    /// Alone, where the call has a status, too. Clients of a response without a place for a sentence look there.
    ///
    /// # Errors
    /// The status that says it.
    fn refused_alone(failure: Failure) -> Result<Self, Status> {
        Ok(Self::refused(failure))
    }
}

/// The response to whatever came out of a call of its own.
pub(super) fn settle_alone<A: Refusable>(result: Result<A, Failure>) -> Result<A, Status> {
    result.or_else(A::refused_alone)
}

impl Failure {
    /// As a region error, which is what clients look at in every response. One without a typed member makes them look the region
    /// up again and end with the sentence; that an answer is too large is final, and the member for it ends the request at once.
    fn into_region_error(self) -> errorpb::Error {
        match self {
            Failure::Region(error) => *error,
            Failure::Text(message) => errorpb::Error { message, ..errorpb::Error::default() },
            Failure::TooLarge(message) => errorpb::Error {
                message,
                raft_entry_too_large: Some(errorpb::RaftEntryTooLarge::default()),
                ..errorpb::Error::default()
            },
        }
    }

    /// The status that a call would end with if it had no response to say more.
    pub(super) fn code(&self) -> Code {
        match self {
            Failure::Region(_) => Code::Unavailable,
            Failure::Text(_) => Code::InvalidArgument,
            Failure::TooLarge(_) => Code::ResourceExhausted,
        }
    }

    fn into_status(self) -> Result<Box<errorpb::Error>, Status> {
        match self {
            Failure::Region(error) => Ok(error),
            Failure::Text(sentence) => Err(Status::invalid(sentence)),
            Failure::TooLarge(sentence) => Err(Status::new(Code::ResourceExhausted, sentence)),
        }
    }
}

macro_rules! refusable {
    (error in $($response:ident),*) => {$(
        impl Refusable for $response {
            fn refused(failure: Failure) -> Self {
                match failure {
                    Failure::Region(error) => Self { region_error: Some(*error), ..Self::default() },
                    Failure::Text(error) | Failure::TooLarge(error) => Self { error, ..Self::default() },
                }
            }
        }
    )*};
    // These have no place for a sentence. What clients look at is the region error, and the status of a call of its own.
    (region_error in $($response:ident),*) => {$(
        impl Refusable for $response {
            fn refused(failure: Failure) -> Self {
                Self { region_error: Some(failure.into_region_error()), ..Self::default() }
            }

            fn refused_alone(failure: Failure) -> Result<Self, Status> {
                Ok(Self { region_error: Some(*failure.into_status()?), ..Self::default() })
            }
        }
    )*};
}

refusable!(error in RawGetResponse, RawPutResponse, RawBatchPutResponse, RawDeleteResponse, RawBatchDeleteResponse);
refusable!(error in RawDeleteRangeResponse, RawGetKeyTtlResponse, RawCasResponse);
refusable!(region_error in RawBatchGetResponse, RawScanResponse, RawBatchScanResponse, SplitRegionResponse);
refusable!(region_error in GetHealthFeedbackResponse);
