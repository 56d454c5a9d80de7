//! Which fields of a message hold more than one value: enough to see how much a request holds without decoding it.
//!
//! Generated at build time with the messages themselves, so what is decoded and what is counted before cannot differ.

/// A field that holds more than itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A message, by its place in [`SHAPES`].
    Message(usize),
    /// Numbers of various lengths, one behind the other.
    Varints,
    /// Numbers of this many bytes each, one behind the other.
    Numbers(usize),
}

/// The fields of one message that hold more than themselves, with their numbers.
#[derive(Clone, Copy, Debug)]
pub struct Shape(pub &'static [(u32, Field)]);

impl Shape {
    /// What field `number` holds, unless that is a single value.
    pub fn field(&self, number: u32) -> Option<Field> {
        self.0.iter().find(|(known, _)| *known == number).map(|(_, field)| *field)
    }
}

/// All messages, by their full names.
pub static SHAPES: &[(&str, Shape)] = include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// The shape of the message with this full name, for example `kvrpcpb.KvPair`.
pub fn of(name: &str) -> Option<&'static Shape> {
    let place = SHAPES.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?;
    Some(&SHAPES[place].1)
}
