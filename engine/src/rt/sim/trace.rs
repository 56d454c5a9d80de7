//! What happened, as a running hash and, on request, as text. Two runs of one seed must agree on both, byte by byte.

use std::fmt::{Arguments, Write};

use crate::rt::rng::mix;

/// The record of one run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    text: Option<String>,
}

impl Trace {
    pub(crate) fn new(seed: u64, with_text: bool) -> Self {
        Self { hash: mix(seed), events: 0, text: with_text.then(String::new) }
    }

    /// Records an event at a moment. The numbers go into the hash; the words are only for readers.
    pub(crate) fn event(&mut self, at: u64, numbers: [u64; 3], words: Arguments<'_>) {
        self.events += 1;
        for number in [at, numbers[0], numbers[1], numbers[2]] {
            self.hash = mix(self.hash.rotate_left(17) ^ number);
        }
        if let Some(text) = &mut self.text {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:>6}.{:09} {words}", at / 1_000_000_000, at % 1_000_000_000);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn text(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }
}
