//! Whether the log's files are where the next start looks for them.

use std::path::PathBuf;

use super::format::SegmentNo;
use super::segment::Segment;
use super::{Log, Shared};
use crate::error::Result;
use crate::in_place::{Wanted, look};

/// At most this many segments are looked at at a time beside the ones that are written next.
const SEGMENTS_AT_ONCE: usize = 32;

/// A part of the log with a file of its own.
enum Part {
    End,
    Segment(SegmentNo),
}

impl Log {
    /// Looks whether what is at the path of a file is the one that is open: `END`, the segment that is written, those that are
    /// prepared, and some more, in turn. Call it now and then, and stop where it fails, because what is written from then on is lost.
    ///
    /// # Errors
    /// Denied, with the file and what to do.
    pub async fn look_at_files(&self) -> Result<()> {
        let shared = self.shared();
        look(&shared.rt, shared.parts(), |part| shared.has_still(part)).await
    }
}

impl Shared {
    fn parts(&self) -> Vec<(Part, PathBuf, Wanted)> {
        let end = self.witness.iter().map(|witness| {
            let (path, id) = witness.file();
            (Part::End, path.to_owned(), Wanted::Open(id))
        });
        let of = |segment: &Segment| {
            (Part::Segment(segment.number), segment.path.clone(), Wanted::Open(segment.file_id()))
        };
        let segments = self.segments.borrow();
        let from = self.looked_to.get();
        let mut in_turn = Vec::new();
        for (number, segment) in segments.range(from..).chain(segments.range(..from)).take(SEGMENTS_AT_ONCE) {
            self.looked_to.set(SegmentNo(number.0 + 1));
            in_turn.push(of(segment));
        }
        end.chain([of(&self.active())]).chain(self.ready.borrow().iter().map(of)).chain(in_turn).collect()
    }

    /// Segments are named before they are among these, and are not before they are named anew or removed.
    fn has_still(&self, part: &Part) -> bool {
        match part {
            Part::End => true,
            Part::Segment(number) => {
                self.segments.borrow().contains_key(number)
                    || self.ready.borrow().iter().any(|ready| ready.number == *number)
            }
        }
    }
}
