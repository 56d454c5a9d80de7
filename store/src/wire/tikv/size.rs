//! The bound on answers that hold many pairs.

use super::failure::Failure;
use super::refusal;
use crate::wire::proto::kvrpcpb::KvPair;

/// Maximum answer to a scan or a batch of reads, bytes. An answer is never cut short, because clients take a short answer for the
/// end of the region.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What a pair costs beside its key and its value, bytes.
const PAIR_BYTES: usize = 16;
/// What an answer has come to, kept within the bound.
#[derive(Default)]
pub(super) struct Size(usize);

impl Size {
    /// Counts `pairs`.
    ///
    /// # Errors
    /// The answer is larger than the bound.
    pub(super) fn add(&mut self, pairs: &[KvPair]) -> Result<(), Failure> {
        self.0 += pairs.iter().map(|pair| pair.key.len() + pair.value.len() + PAIR_BYTES).sum::<usize>();
        if self.0 <= ANSWER_BYTES_MAX {
            return Ok(());
        }
        Err(refusal::answer_too_large(ANSWER_BYTES_MAX))
    }
}
