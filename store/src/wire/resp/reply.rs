//! Replies as bytes: the same values in RESP2 and RESP3.
//!
//! A [`Writer`] appends to a buffer that the session sends in one piece. What RESP2 lacks is written as its clients expect
//! it: maps and sets as flat arrays, null as a null bulk string, a double as a string.

/// The protocol that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// RESP2, how every connection begins.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

/// Up to this length a buffer grows by doubling, beyond it by an eighth at a time: what it could hold is charged like what it does hold, and
/// the two bytes after a value of 8 MiB doubled it. Bytes.
const DOUBLED_BYTES_MAX: usize = 1 << 20;
const GROWTH_PART: usize = 8;
/// What a string has around its bytes, at most.
const FRAME_BYTES: usize = 32;

/// Writes replies at the end of a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    protocol: Protocol,
}

impl<'a> Writer<'a> {
    /// A writer in `protocol` at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    /// The protocol that it writes.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Goes on in another protocol.
    pub fn switch(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// What it has written, and what was there before.
    pub fn written(&self) -> usize {
        self.out.len()
    }

    /// Makes room for `bytes` more.
    fn reserve(&mut self, bytes: usize) {
        let (len, spare) = (self.out.len(), self.out.capacity() - self.out.len());
        if spare < bytes && len + bytes > DOUBLED_BYTES_MAX {
            self.out.reserve_exact(bytes.max(len / GROWTH_PART));
        }
    }

    /// A reply that is written already.
    pub fn raw(&mut self, reply: &[u8]) {
        self.reserve(reply.len());
        self.out.extend_from_slice(reply);
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A status; `text` is one line.
    pub fn status(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// An error; `text` begins with its code, such as `ERR`. Line breaks in it become spaces.
    pub fn error(&mut self, text: &str) {
        self.out.push(b'-');
        let one_line = text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte });
        self.out.extend(one_line);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A string of bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len() + FRAME_BYTES);
        self.header(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A string of bytes or null.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// Text that is meant for people; in RESP3 its type says so.
    pub fn verbatim(&mut self, text: &str) {
        if self.protocol == Protocol::Resp2 {
            return self.bulk(text.as_bytes());
        }
        self.header(b'=', text.len() + 4);
        self.out.extend_from_slice(b"txt:");
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// Nothing.
    pub fn null(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// Nothing where RESP2 clients expect an array.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        self.out.push(b':');
        push_integer(self.out, value);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A double.
    pub fn double(&mut self, value: f64) {
        let text = match value {
            value if value.is_nan() => "nan".to_owned(),
            f64::INFINITY => "inf".to_owned(),
            f64::NEG_INFINITY => "-inf".to_owned(),
            value => value.to_string(),
        };
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => self.line(b',', text.as_bytes()),
        }
    }

    /// The head of an array of `len` elements, which follow.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len);
    }

    /// The head of a map of `len` pairs, which follow as key, value, key, value.
    pub fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', 2 * len),
            Protocol::Resp3 => self.header(b'%', len),
        }
    }

    /// The head of a set of `len` elements, which follow.
    pub fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', len),
            Protocol::Resp3 => self.header(b'~', len),
        }
    }

    fn header(&mut self, kind: u8, len: usize) {
        self.out.push(kind);
        push_integer(self.out, i64::try_from(len).unwrap_or(i64::MAX));
        self.out.extend_from_slice(b"\r\n");
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Appends `value` in decimal.
pub fn push_integer(out: &mut Vec<u8>, value: i64) {
    if let 0..=9 = value {
        return out.push(b'0' + value as u8);
    }
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    while rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    if value < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(protocol: Protocol, write: impl Fn(&mut Writer<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Writer::new(&mut out, protocol));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_buffer_has_little_more_than_what_is_written() {
        for (values, bytes) in [(1, 8 << 20), (12, 1 << 20), (1000, 10_000), (100_000, 100)] {
            let (value, mut out) = (vec![b'v'; bytes], Vec::new());
            let mut writer = Writer::new(&mut out, Protocol::Resp2);
            (0..values).for_each(|_| writer.bulk(&value));
            let (len, capacity) = (out.len(), out.capacity());
            assert!(capacity <= len / GROWTH_PART * 9 + 2 * FRAME_BYTES, "{capacity} bytes for {len}");
        }
    }

    #[test]
    fn each_protocol_has_its_own_nothing() {
        assert_eq!(written(Protocol::Resp2, |w| w.null()), "$-1\r\n");
        assert_eq!(written(Protocol::Resp2, |w| w.null_array()), "*-1\r\n");
        assert_eq!(written(Protocol::Resp3, |w| w.null()), "_\r\n");
        assert_eq!(written(Protocol::Resp3, |w| w.null_array()), "_\r\n");
    }

    #[test]
    fn maps_sets_doubles_and_texts_become_what_resp2_has() {
        assert_eq!(written(Protocol::Resp2, |w| w.map(2)), "*4\r\n");
        assert_eq!(written(Protocol::Resp3, |w| w.map(2)), "%2\r\n");
        assert_eq!(written(Protocol::Resp2, |w| w.set(2)), "*2\r\n");
        assert_eq!(written(Protocol::Resp3, |w| w.set(2)), "~2\r\n");
        assert_eq!(written(Protocol::Resp2, |w| w.double(1.5)), "$3\r\n1.5\r\n");
        assert_eq!(written(Protocol::Resp3, |w| w.double(f64::NEG_INFINITY)), ",-inf\r\n");
        assert_eq!(written(Protocol::Resp2, |w| w.verbatim("a")), "$1\r\na\r\n");
        assert_eq!(written(Protocol::Resp3, |w| w.verbatim("a")), "=5\r\ntxt:a\r\n");
    }

    #[test]
    fn integers_of_every_length() {
        for value in [0, 9, 10, -1, 1234567890, i64::MAX, i64::MIN] {
            assert_eq!(written(Protocol::Resp2, |w| w.integer(value)), format!(":{value}\r\n"));
        }
    }

    #[test]
    fn an_error_stays_on_its_line() {
        assert_eq!(written(Protocol::Resp2, |w| w.error("ERR a\r\n+OK")), "-ERR a  +OK\r\n");
    }
}
