//! What the kernel does in part is asked for again, from where it stopped.
//!
//! A disk that fills up within a write, or a limit on the length of files, cuts the write short and says nothing of the reason. The
//! rest, asked for again, fails with the reason, or goes through because there is room again. So a caller of the seam meets either a
//! whole write or an error with a number, and only that tells a full disk from a broken one. Reads go on in the same way: one that is
//! short lies at the end of the file, or it was interrupted.

use std::io;

use super::BLOCK_BYTES;

/// Writes `len` bytes: `write` writes what lies from the given place in the buffer on, and says how much of it was written.
pub(crate) async fn write_whole(
    len: usize,
    mut write: impl AsyncFnMut(usize) -> io::Result<usize>,
) -> io::Result<()> {
    let mut rest = Rest::of(len);
    loop {
        let written = write(rest.from).await?;
        if rest.take(written)? {
            return Ok(());
        }
    }
}

/// Reads `len` bytes, or as many as there are before the end of the file. `read` reads from the given place on, and says how much.
pub(crate) async fn read_whole(
    len: usize,
    mut read: impl AsyncFnMut(usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut from = 0;
    loop {
        let end = from + read(from).await?;
        if end >= len || end == from {
            return Ok(end);
        }
        // What does not end with a block ends with the file, unless the next read has more of the same block.
        let next = end / BLOCK_BYTES * BLOCK_BYTES;
        if next == from {
            return Ok(end);
        }
        from = next;
    }
}

/// What is left of a write.
#[derive(Debug)]
pub(crate) struct Rest {
    /// Where it begins, whole blocks.
    pub(crate) from: usize,
    len: usize,
}

impl Rest {
    pub(crate) fn of(len: usize) -> Self {
        Self { from: 0, len }
    }

    /// Takes note of what one call has written from [`Rest::from`] on. Whether that was all.
    ///
    /// # Errors
    /// That of a full disk or of a limit on the length of files, if it was less than a block: the kernel names its reasons when it writes
    /// nothing, and there is no other for which it could go on like this.
    pub(crate) fn take(&mut self, written: usize) -> io::Result<bool> {
        if self.from + written >= self.len {
            return Ok(true);
        }
        if written < BLOCK_BYTES {
            let what = format!("the kernel wrote {} of {} bytes", self.from + written, self.len);
            // A limit that is no multiple of a block shows in this way, too.
            let why = match crate::host::limits_file_length() {
                true => io::ErrorKind::FileTooLarge,
                false => io::ErrorKind::StorageFull,
            };
            return Err(io::Error::new(why, what));
        }
        self.from += written / BLOCK_BYTES * BLOCK_BYTES;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Shortage;
    use crate::rt::sim;

    const B: usize = BLOCK_BYTES;

    /// What a kernel that answers thus is asked for, and what comes of it.
    fn written(answers: Vec<io::Result<usize>>) -> (Vec<usize>, io::Result<()>) {
        sim::run(1, |_| async move {
            let (mut asked, mut answers) = (Vec::new(), answers.into_iter());
            let how = write_whole(5 * B, async |from| {
                asked.push(from);
                answers.next().unwrap()
            })
            .await;
            assert!(answers.next().is_none(), "it is not asked again after the end");
            (asked, how)
        })
    }

    #[test]
    fn the_rest_of_a_write_is_asked_for_from_its_first_unwritten_block_on() {
        let (asked, how) = written(vec![Ok(2 * B), Ok(B + 512), Ok(2 * B)]);
        assert_eq!(asked, [0, 2 * B, 3 * B]);
        how.unwrap();
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        let (asked, how) = written(vec![Ok(2 * B), Err(full())]);
        assert_eq!(asked, [0, 2 * B]);
        assert_eq!(Shortage::of(&how.unwrap_err()), Some(Shortage::Space));
    }

    #[test]
    fn a_write_that_gets_no_further_is_one_to_a_full_disk() {
        for written_bytes in [0, 512] {
            let (_, how) = written(vec![Ok(B), Ok(written_bytes)]);
            assert_eq!(Shortage::of(&how.unwrap_err()), Some(Shortage::Space));
        }
    }

    #[test]
    fn a_read_goes_on_until_the_end_of_the_file() {
        let read = |file_bytes: usize, piece_bytes: usize| {
            sim::run(1, move |_| async move {
                read_whole(5 * B, async |from| {
                    Ok(file_bytes.saturating_sub(from).min(piece_bytes).min(5 * B - from))
                })
                .await
                .unwrap()
            })
        };
        assert_eq!(read(9 * B, 2 * B), 5 * B);
        assert_eq!(read(9 * B, 2 * B + 512), 5 * B);
        assert_eq!(read(3 * B + 7, 2 * B), 3 * B + 7);
        assert_eq!(read(3 * B, 2 * B), 3 * B);
        assert_eq!(read(7, 5 * B), 7);
        assert_eq!(read(0, 5 * B), 0);
    }
}
