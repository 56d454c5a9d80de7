//! Writes a table file: front to back, in large aligned pieces, synced before anybody hears of it.

use std::path::PathBuf;

use crate::error::{Fault, Result};
use crate::rt::{BLOCK_BYTES, Buf, File, OpenMode, Rt};

/// The unit in which tables are written.
pub(crate) const WRITE_BYTES: usize = 256 << 10;

/// Writes a file front to back in large aligned pieces.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    path: PathBuf,
    pos: u64,
    piece: Option<Buf>,
    filled: usize,
}

impl Writer {
    /// Creates the file, which must not be there.
    pub(crate) async fn create(rt: &Rt, path: PathBuf) -> Result<Self> {
        let file = rt.open(&path, OpenMode::Create).await.map_err(|e| Fault::io(&path, "creating", &e))?;
        Ok(Self { file, path, pos: 0, piece: None, filled: 0 })
    }

    /// Takes all of `bytes`; whole pieces are written, the rest waits.
    pub(crate) async fn feed(&mut self, rt: &Rt, bytes: &mut Vec<u8>) -> Result<()> {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let piece = self.piece.get_or_insert_with(|| rt.alloc(WRITE_BYTES));
            let taken = rest.len().min(WRITE_BYTES - self.filled);
            piece[self.filled..self.filled + taken].copy_from_slice(&rest[..taken]);
            self.filled += taken;
            rest = &rest[taken..];
            if self.filled == WRITE_BYTES {
                self.write_piece().await?;
            }
        }
        bytes.clear();
        Ok(())
    }

    /// Writes the end, a whole number of blocks, and makes the file durable.
    pub(crate) async fn finish(mut self, rt: &Rt, bytes: &mut Vec<u8>) -> Result<()> {
        self.feed(rt, bytes).await?;
        if self.filled > 0 {
            assert_eq!(self.filled % BLOCK_BYTES, 0, "a table is padded to whole blocks");
            let whole = self.piece.take();
            let mut last = rt.alloc(self.filled);
            if let Some(whole) = whole {
                last.copy_from_slice(&whole[..self.filled]);
            }
            self.piece = Some(last);
            self.write_piece().await?;
        }
        self.file.sync().await.map_err(|e| Fault::doubt(&self.path, "syncing", &e))?;
        self.file.close().await.map_err(|e| Fault::io(&self.path, "closing", &e))
    }

    async fn write_piece(&mut self) -> Result<()> {
        let Some(piece) = self.piece.take() else { return Ok(()) };
        let len = piece.len() as u64;
        self.file.write_at(piece, self.pos).await.map_err(|e| Fault::io(&self.path, "writing", &e))?;
        self.pos += len;
        self.filled = 0;
        Ok(())
    }
}
