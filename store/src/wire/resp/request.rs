//! One complete command and its arguments, still in the input.
//!
//! An argument is looked at in place. What an operation keeps, it takes as [`Bytes`]: small arguments are copied, because a
//! key that is kept for a year must not keep a whole read buffer with it; a value that makes up most of its buffer is not
//! copied again.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use super::command::RespCommand;
use super::frame::{Parser, integer};
use super::reply::{Protocol, Writer};
use crate::request::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// A command's arguments; number 0 is its name.
#[derive(Clone, Copy, Debug)]
pub struct CommandLine<'a> {
    parser: &'a Parser,
    text: &'a [u8],
    /// The frame as memory of its own, when it is big enough to be worth it.
    own: Option<&'a Bytes>,
}

/// An error reply, its code included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    text: Cow<'static, str>,
    cause: Cause,
}

/// Whose doing an error is, which decides what becomes of a transaction around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The client's. Redis answers it when the command runs, so inside `EXEC` it stops no other command.
    Client,
    /// Redis refuses the command before it runs, or would carry it out and this server cannot: nothing around it may take effect.
    Refused,
}

impl<'a> CommandLine<'a> {
    /// The command that `parser` has found in `frame`.
    pub fn new(parser: &'a Parser, frame: &'a [u8]) -> Self {
        Self { parser, text: parser.text(frame), own: None }
    }

    /// The command that `parser` has found in `frame`, which its arguments may share.
    pub fn in_own_memory(parser: &'a Parser, frame: &'a Bytes) -> Self {
        let own = (!parser.is_inline()).then_some(frame);
        Self { own, ..Self::new(parser, frame) }
    }

    /// How many arguments there are, the name included.
    pub fn count(&self) -> usize {
        self.parser.len()
    }

    /// Argument `index`, which exists.
    pub fn arg(&self, index: usize) -> &'a [u8] {
        &self.text[self.parser.range(index)]
    }

    /// Argument `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        (index < self.count()).then(|| self.arg(index))
    }

    /// The arguments from `index` on.
    pub fn args_from(&self, index: usize) -> impl ExactSizeIterator<Item = &'a [u8]> {
        let request = *self;
        (index.min(self.count())..self.count()).map(move |index| request.arg(index))
    }

    /// Argument `index` as a key to keep.
    pub fn key(&self, index: usize) -> Result<Bytes, Error> {
        self.key_bytes(index).map(Bytes::copy_from_slice)
    }

    /// Argument `index` as a value to keep.
    pub fn value(&self, index: usize) -> Result<Bytes, Error> {
        let range = self.value_range(index)?;
        Ok(match self.own {
            Some(own) if is_most_of(&range, own) => own.slice(range),
            Some(_) | None => Bytes::copy_from_slice(&self.text[range]),
        })
    }

    /// Arguments `key` and `value` as a pair to keep. They share one piece of memory, which costs as much as two and has no price for
    /// the copies of the handles that the way to a store takes.
    pub fn pair(&self, key: usize, value: usize) -> Result<(Bytes, Bytes), Error> {
        let (key, range) = (self.key_bytes(key)?, self.value_range(value)?);
        if let Some(own) = self.own
            && is_most_of(&range, own)
        {
            return Ok((Bytes::copy_from_slice(key), own.slice(range)));
        }
        let mut both = Bytes::from_owner([key, &self.text[range]].concat());
        let key = both.split_to(key.len());
        Ok((key, both))
    }

    fn key_bytes(&self, index: usize) -> Result<&'a [u8], Error> {
        let key = self.arg(index);
        if key.len() > KEY_BYTES_MAX {
            return Err(Error::refused(format!(
                "ERR key of {} bytes, the limit is {KEY_BYTES_MAX} bytes",
                key.len()
            )));
        }
        Ok(key)
    }

    fn value_range(&self, index: usize) -> Result<Range<usize>, Error> {
        let range = self.parser.range(index);
        if range.len() > VALUE_BYTES_MAX {
            let len = range.len();
            return Err(Error::refused(format!(
                "ERR value of {len} bytes, the limit is {VALUE_BYTES_MAX} bytes"
            )));
        }
        Ok(range)
    }

    /// Argument `index` as an integer.
    pub fn integer(&self, index: usize) -> Result<i64, Error> {
        integer(self.arg(index)).ok_or(Error::NOT_AN_INTEGER)
    }

    /// The command as a frame of its own, however it came.
    pub fn repacked(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        let mut writer = Writer::new(&mut frame, Protocol::Resp2);
        writer.array(self.count());
        self.args_from(0).for_each(|arg| writer.bulk(arg));
        frame
    }

    /// Whether argument `index` is `word`, in any case.
    pub fn is(&self, index: usize, word: &str) -> bool {
        self.get(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    }
}

impl Error {
    /// Arguments that make no sense together.
    pub const SYNTAX: Error = Error::constant("ERR syntax error");
    /// Not a number, or not one that fits.
    pub const NOT_AN_INTEGER: Error = Error::constant("ERR value is not an integer or out of range");
    /// Redis may have that database, and then what follows in a transaction would be written there.
    pub const NO_SUCH_DATABASE: Error = Error::unsupported("ERR DB index is out of range");
    /// The password comes first.
    pub const NOT_AUTHENTICATED: Error = Error::constant("NOAUTH Authentication required.");
    /// A reply that would not fit into memory.
    pub const REPLY_TOO_BIG: Error =
        Error::constant("ERR the reply would exceed 64 MiB, ask for fewer keys at a time");

    /// An error with a fixed text.
    pub const fn constant(text: &'static str) -> Self {
        Self { text: Cow::Borrowed(text), cause: Cause::Client }
    }

    /// An error with a text of its own.
    pub fn new(text: String) -> Self {
        Self { text: Cow::Owned(text), cause: Cause::Client }
    }

    /// Something that Redis does and this server does not.
    pub const fn unsupported(text: &'static str) -> Self {
        Self { text: Cow::Borrowed(text), cause: Cause::Refused }
    }

    fn refused(text: String) -> Self {
        Self { text: Cow::Owned(text), cause: Cause::Refused }
    }

    /// The text, code included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a transaction with this command is refused as a whole.
    pub fn aborts_transaction(&self) -> bool {
        self.cause == Cause::Refused
    }

    /// There is no such command.
    pub fn unknown_command(request: &CommandLine<'_>) -> Self {
        const SHOWN_BYTES: usize = 128;
        let mut args = String::new();
        for arg in request.args_from(1) {
            if args.len() >= SHOWN_BYTES {
                break;
            }
            let shown = &arg[..arg.len().min(SHOWN_BYTES - args.len())];
            args.push_str(&format!("'{}' ", Text(shown)));
        }
        let name = request.arg(0);
        let name = Text(&name[..name.len().min(SHOWN_BYTES)]);
        Self::new(format!("ERR unknown command '{name}', with args beginning with: {args}"))
    }

    /// The wrong number of arguments.
    pub fn arity(command: RespCommand) -> Self {
        Self::new(format!("ERR wrong number of arguments for '{}' command", command.spec().name))
    }

    /// The wrong number of arguments for a part of a command.
    pub fn subcommand_arity(command: RespCommand, sub: &[u8]) -> Self {
        let (name, sub) = (command.spec().name, sub.to_ascii_lowercase());
        Self::refused(format!("ERR wrong number of arguments for '{name}|{}' command", Text(&sub)))
    }

    /// A part of a command that does not exist.
    pub fn unknown_subcommand(command: RespCommand, sub: &[u8]) -> Self {
        let name = command.spec().name.to_ascii_uppercase();
        let sub = Text(&sub[..sub.len().min(128)]);
        Self::refused(format!("ERR unknown subcommand '{sub}'. Try {name} HELP."))
    }
}

/// Whether memory of its own is kept for a part of it without a waste.
fn is_most_of(range: &Range<usize>, own: &Bytes) -> bool {
    range.len() * 2 > own.len()
}

/// Bytes as text for people, whatever they are.
struct Text<'a>(&'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(self.0).fmt(f)
    }
}
