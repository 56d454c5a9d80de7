//! Requests as bytes: an incremental parser of RESP arrays and inline commands.
//!
//! The parser owns no bytes. It is shown the input from the first byte of a frame and remembers how far it came, so a frame
//! that arrives in pieces is read once; when the frame is complete, its arguments are ranges of that input.
//!
//! Bounds: nothing is allocated for what a length merely announces. Memory grows with the bytes that have really arrived,
//! and [`FrameLimits`] ends that.

use std::fmt;
use std::ops::Range;

use crate::request::VALUE_BYTES_MAX;

/// Maximum length of an inline command and of a `*` or `$` line, bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What a frame may be, so that a connection's memory has an end.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// Arguments of one command.
    pub args_max: usize,
    /// One argument, bytes.
    pub bulk_bytes_max: usize,
    /// One command altogether, bytes.
    pub frame_bytes_max: usize,
}

impl FrameLimits {
    /// For a connection that may issue commands. Arguments are read and routed without a pause, some milliseconds for as many
    /// as these.
    pub const OPEN: FrameLimits =
        FrameLimits { args_max: 128 << 10, bulk_bytes_max: VALUE_BYTES_MAX, frame_bytes_max: 64 << 20 };
    /// For a connection that has not authenticated yet and has nothing big to say.
    pub const UNAUTHENTICATED: FrameLimits =
        FrameLimits { args_max: 10, bulk_bytes_max: 16 << 10, frame_bytes_max: 256 << 10 };
}

/// Why the input is not RESP. The connection cannot go on, because the next frame's start is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A `*` line without a usable number.
    ArgumentCount,
    /// More arguments than allowed.
    TooManyArguments {
        /// The number allowed.
        most: usize,
    },
    /// A `$` line without a usable number.
    BulkLength,
    /// An argument longer than allowed.
    BulkTooLong {
        /// Announced, bytes.
        bytes: u64,
        /// Allowed, bytes.
        most: usize,
    },
    /// Something else where an argument should begin.
    ExpectedBulk {
        /// What was found.
        found: u8,
    },
    /// An argument that is not followed by CR LF.
    Unterminated,
    /// A line that does not end.
    LineTooLong,
    /// A frame longer than allowed.
    FrameTooLong {
        /// Allowed, bytes.
        most: usize,
    },
    /// An inline command whose quotes do not match.
    Quotes,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ArgumentCount => write!(f, "invalid multibulk length"),
            Self::TooManyArguments { most } => {
                write!(f, "invalid multibulk length, at most {most} arguments")
            }
            Self::BulkLength => write!(f, "invalid bulk length"),
            Self::BulkTooLong { bytes, most } => {
                write!(f, "invalid bulk length, {bytes} bytes where at most {most} are allowed")
            }
            Self::ExpectedBulk { found } => write!(f, "expected '$', got '{}'", found.escape_ascii()),
            Self::Unterminated => write!(f, "expected CRLF after an argument"),
            Self::LineTooLong => write!(f, "too big inline request or count string"),
            Self::FrameTooLong { most } => write!(f, "command longer than {most} bytes"),
            Self::Quotes => write!(f, "unbalanced quotes in request"),
        }
    }
}

/// Where the parser stands after looking at the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Incomplete,
    /// The first `bytes` of the input are a command; the parser has its arguments, at least one.
    Command {
        /// The frame's length.
        bytes: usize,
    },
    /// The first `bytes` of the input say nothing, which is allowed: an empty line, an empty array.
    Nothing {
        /// The frame's length.
        bytes: usize,
    },
}

/// The state of one connection's current frame.
#[derive(Debug, Default)]
pub struct Parser {
    /// Where to go on, counted from the frame's first byte.
    at: usize,
    /// Arguments that are still to come, once the `*` line is read.
    missing: Option<usize>,
    /// The arguments so far: start and length. Frames are shorter than 4 GiB.
    ranges: Vec<(u32, u32)>,
    /// The arguments of an inline command without their quotes, into which `ranges` point.
    inline: Option<Vec<u8>>,
}

impl Parser {
    /// Looks at `input`, which begins with the current frame and holds at least what earlier calls have seen of it.
    pub fn parse(&mut self, input: &[u8], limits: &FrameLimits) -> Result<Parsed, Malformed> {
        if self.missing.is_none() {
            match input.first() {
                None => return Ok(Parsed::Incomplete),
                Some(b'*') => {}
                Some(_) => return self.parse_inline(input),
            }
            let Some(count) = self.read_count(input, limits)? else { return Ok(Parsed::Incomplete) };
            if count == 0 {
                return Ok(Parsed::Nothing { bytes: self.at });
            }
            self.missing = Some(count);
        }
        self.parse_bulks(input, limits)
    }

    /// Forgets the current frame; the next input begins with a new one.
    pub fn restart(&mut self) {
        self.at = 0;
        self.missing = None;
        self.inline = None;
        self.ranges.clear();
        // One huge command must not leave its memory with an idle connection.
        self.ranges.shrink_to(16);
    }

    /// How many arguments the complete command has.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is no complete command.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Where argument `index` lies in [`Parser::text`].
    pub fn range(&self, index: usize) -> Range<usize> {
        let (start, len) = self.ranges[index];
        start as usize..(start + len) as usize
    }

    /// The bytes that [`Parser::range`] speaks of: the frame itself, or what an inline command comes to.
    pub fn text<'a>(&'a self, frame: &'a [u8]) -> &'a [u8] {
        self.inline.as_deref().unwrap_or(frame)
    }

    /// Whether the command was an inline one, so that its arguments are not part of the frame.
    pub fn is_inline(&self) -> bool {
        self.inline.is_some()
    }

    fn read_count(&mut self, input: &[u8], limits: &FrameLimits) -> Result<Option<usize>, Malformed> {
        let Some((line, next)) = line_at(input, 1)? else { return Ok(None) };
        let count = integer(line).ok_or(Malformed::ArgumentCount)?;
        let count = usize::try_from(count).unwrap_or(0);
        if count > limits.args_max {
            return Err(Malformed::TooManyArguments { most: limits.args_max });
        }
        self.at = next;
        Ok(Some(count))
    }

    fn parse_bulks(&mut self, input: &[u8], limits: &FrameLimits) -> Result<Parsed, Malformed> {
        let mut missing = self.missing.unwrap_or(0);
        while missing > 0 {
            let Some((start, len)) = self.bulk_at(input, limits)? else {
                self.missing = Some(missing);
                return Ok(Parsed::Incomplete);
            };
            self.ranges.push((start as u32, len as u32));
            self.at = start + len + 2;
            missing -= 1;
        }
        Ok(Parsed::Command { bytes: self.at })
    }

    /// The start and the length of the argument whose `$` line is next, once all of it is there.
    fn bulk_at(&self, input: &[u8], limits: &FrameLimits) -> Result<Option<(usize, usize)>, Malformed> {
        match input.get(self.at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(&found) => return Err(Malformed::ExpectedBulk { found }),
        }
        let Some((line, start)) = line_at(input, self.at + 1)? else { return Ok(None) };
        let len = bulk_length(line, limits)?;
        let end = start + len;
        if end + 2 > limits.frame_bytes_max {
            return Err(Malformed::FrameTooLong { most: limits.frame_bytes_max });
        }
        if input.len() < end + 2 {
            return Ok(None);
        }
        if input[end..end + 2] != *b"\r\n" {
            return Err(Malformed::Unterminated);
        }
        Ok(Some((start, len)))
    }

    fn parse_inline(&mut self, input: &[u8]) -> Result<Parsed, Malformed> {
        let unseen = &input[self.at..];
        let Some(newline) = unseen.iter().position(|&byte| byte == b'\n') else {
            if input.len() > LINE_BYTES_MAX {
                return Err(Malformed::LineTooLong);
            }
            self.at = input.len();
            return Ok(Parsed::Incomplete);
        };
        let newline = self.at + newline;
        if newline > LINE_BYTES_MAX {
            return Err(Malformed::LineTooLong);
        }
        let mut words = Vec::new();
        split_words(&input[..newline], &mut words, &mut self.ranges).ok_or(Malformed::Quotes)?;
        let bytes = newline + 1;
        if self.ranges.is_empty() {
            return Ok(Parsed::Nothing { bytes });
        }
        self.inline = Some(words);
        Ok(Parsed::Command { bytes })
    }
}

fn bulk_length(line: &[u8], limits: &FrameLimits) -> Result<usize, Malformed> {
    let len = integer(line).and_then(|len| u64::try_from(len).ok()).ok_or(Malformed::BulkLength)?;
    if len > limits.bulk_bytes_max as u64 {
        return Err(Malformed::BulkTooLong { bytes: len, most: limits.bulk_bytes_max });
    }
    Ok(len as usize)
}

/// The line that begins at `start` without its CR LF, and where the next one begins. `None` if it has not ended yet.
///
/// Only lines of digits are read this way, so looking at an unfinished one again costs next to nothing.
fn line_at(input: &[u8], start: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    const NUMBER_BYTES_MAX: usize = 32;
    let rest = &input[start.min(input.len())..];
    let window = &rest[..rest.len().min(NUMBER_BYTES_MAX)];
    match window.iter().position(|&byte| byte == b'\r') {
        Some(end) if end + 1 == rest.len() => Ok(None),
        Some(end) => Ok(Some((&window[..end], start + end + 2))),
        None if rest.len() < NUMBER_BYTES_MAX => Ok(None),
        None => Err(Malformed::LineTooLong),
    }
}

/// A decimal integer as RESP and Redis' commands write it: an optional minus, no plus, no leading zeros, no spaces.
pub fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let first = *digits.first()?;
    if first == b'0' && (digits.len() > 1 || negative) {
        return None;
    }
    let mut value = 0i64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // Counting downwards, because the smallest integer has no positive counterpart.
        value = value.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}

/// Splits an inline command into words, with the quoting that Redis' clients know. `None` if quotes do not match.
fn split_words(line: &[u8], words: &mut Vec<u8>, ranges: &mut Vec<(u32, u32)>) -> Option<()> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(());
        }
        let start = words.len();
        rest = match rest[0] {
            b'"' => double_quoted(&rest[1..], words)?,
            b'\'' => single_quoted(&rest[1..], words)?,
            _ => bare(rest, words)?,
        };
        ranges.push((start as u32, (words.len() - start) as u32));
    }
}

/// A word without quotes at its start; quotes may open inside it, and then end it.
fn bare<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Option<&'a [u8]> {
    while let Some(&byte) = rest.first() {
        match byte {
            b'"' => return double_quoted(&rest[1..], words),
            b'\'' => return single_quoted(&rest[1..], words),
            byte if byte.is_ascii_whitespace() => break,
            byte => words.push(byte),
        }
        rest = &rest[1..];
    }
    Some(rest)
}

fn double_quoted<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                words.push(hex(*high) << 4 | hex(*low));
                after
            }
            [b'\\', escaped, after @ ..] => {
                words.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                after
            }
            [b'"', after @ ..] => return closed(after),
            [byte, after @ ..] => {
                words.push(*byte);
                after
            }
            [] => return None,
        };
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'\\', b'\'', after @ ..] => {
                words.push(b'\'');
                after
            }
            [b'\'', after @ ..] => return closed(after),
            [byte, after @ ..] => {
                words.push(*byte);
                after
            }
            [] => return None,
        };
    }
}

/// A closing quote ends its word.
fn closed(after: &[u8]) -> Option<&[u8]> {
    after.first().is_none_or(u8::is_ascii_whitespace).then_some(after)
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}
