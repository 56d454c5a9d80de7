//! A sealed file as one slice, for offline tools and start-up checks.
//!
//! Never on a serving core: a page fault there stalls every region that the core owns.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// A file mapped for reading.
#[derive(Debug)]
pub struct Mapped(Mmap);

impl Mapped {
    /// Maps `path`, which no writer changes meanwhile.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the callers map files that are never written again, or that belong to a node that does not run. A file
        // that is cut short regardless ends the tool with a bus error, which harms no data.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self(map))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
