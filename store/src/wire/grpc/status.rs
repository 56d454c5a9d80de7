//! The status of a call: a code and a sentence, carried in trailers.

use std::fmt;

use http::HeaderValue;

/// The gRPC status codes that this server returns or has to understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Code {
    /// Success.
    Ok = 0,
    /// The caller cancelled the call.
    Cancelled = 1,
    /// No other code fits.
    Unknown = 2,
    /// The request can never be carried out as it is.
    InvalidArgument = 3,
    /// The deadline of the caller has passed; a write may still happen.
    DeadlineExceeded = 4,
    /// What was asked for does not exist.
    NotFound = 5,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A bound is reached: size of a message, memory for requests.
    ResourceExhausted = 8,
    /// The state of the server forbids it.
    FailedPrecondition = 9,
    /// The server does not have this method.
    Unimplemented = 12,
    /// The server or the transport broke its own rules.
    Internal = 13,
    /// The server cannot be reached or is stopping; a retry may succeed.
    Unavailable = 14,
    /// The caller does not prove that it may make this call at all.
    Unauthenticated = 16,
}

impl Code {
    const ALL: [Code; 13] = [
        Code::Ok,
        Code::Cancelled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::Unauthenticated,
    ];

    /// The value of the `grpc-status` trailer.
    pub(crate) fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Code::Ok => "0",
            Code::Cancelled => "1",
            Code::Unknown => "2",
            Code::InvalidArgument => "3",
            Code::DeadlineExceeded => "4",
            Code::NotFound => "5",
            Code::PermissionDenied => "7",
            Code::ResourceExhausted => "8",
            Code::FailedPrecondition => "9",
            Code::Unimplemented => "12",
            Code::Internal => "13",
            Code::Unavailable => "14",
            Code::Unauthenticated => "16",
        })
    }

    /// Its gRPC name, which is the label of the metrics page.
    pub fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Cancelled => "CANCELLED",
            Code::Unknown => "UNKNOWN",
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::NotFound => "NOT_FOUND",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::FailedPrecondition => "FAILED_PRECONDITION",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::Unimplemented => "UNIMPLEMENTED",
            Code::Internal => "INTERNAL",
            Code::Unavailable => "UNAVAILABLE",
            Code::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// Reads a `grpc-status` trailer; a code that is not listed here is [`Code::Unknown`].
    pub(crate) fn parse(value: &HeaderValue) -> Code {
        Code::ALL.into_iter().find(|code| code.header() == value).unwrap_or(Code::Unknown)
    }
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The kind of failure.
    pub code: Code,
    /// One sentence for the person who reads the client's log.
    pub message: String,
}

impl Status {
    /// A failure of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The request can never be carried out as it is.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// The server has no such method.
    pub fn unimplemented(path: &str) -> Self {
        Self::new(Code::Unimplemented, format!("method {path} is not served here"))
    }

    /// The message as a header: bytes outside printable ASCII, and `%`, are percent-encoded.
    pub(crate) fn message_header(&self) -> HeaderValue {
        let mut text = String::with_capacity(self.message.len());
        for byte in self.message.bytes().take(MESSAGE_BYTES_MAX) {
            match byte {
                b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
                _ => {
                    text.push('%');
                    text.push(char::from(HEX[usize::from(byte >> 4)]));
                    text.push(char::from(HEX[usize::from(byte & 15)]));
                }
            }
        }
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
    }

    /// Undoes [`Status::message_header`].
    pub(crate) fn decode_message(value: &HeaderValue) -> String {
        let bytes = value.as_bytes();
        let mut decoded = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let escaped = (bytes[at] == b'%')
                .then(|| bytes.get(at + 1..at + 3))
                .flatten()
                .and_then(|hex| std::str::from_utf8(hex).ok())
                .and_then(|hex| u8::from_str_radix(hex, 16).ok());
            decoded.push(escaped.unwrap_or(bytes[at]));
            at += if escaped.is_some() { 3 } else { 1 };
        }
        String::from_utf8_lossy(&decoded).into_owned()
    }
}

/// Maximum length of a status message, bytes; more would not fit into a client's header list.
const MESSAGE_BYTES_MAX: usize = 1024;
const HEX: &[u8; 16] = b"0123456789ABCDEF";

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gRPC status {} ({:?}): {}", self.code as u8, self.code, self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_its_header() {
        for code in Code::ALL {
            assert_eq!(Code::parse(&code.header()), code);
            assert_eq!(code.header().to_str().unwrap(), (code as u8).to_string());
        }
        assert_eq!(Code::parse(&HeaderValue::from_static("77")), Code::Unknown);
    }

    #[test]
    fn a_message_survives_its_header_whatever_it_holds() {
        for text in ["", "plain", "100 % of\nlines", "Schlüssel \u{0}\u{7f}", "%41"] {
            let status = Status::new(Code::Unknown, text);
            assert_eq!(Status::decode_message(&status.message_header()), text);
        }
        assert_eq!(Status::decode_message(&HeaderValue::from_static("a%4")), "a%4");
    }
}
