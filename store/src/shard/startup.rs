//! What a start does while something is short that comes back: it says so once and tries again, for a bounded time.
//!
//! Whoever starts a node waits for it, so unlike a store that serves a start does not wait for ever. A step that is repeated must have
//! closed what it had opened.

use std::time::Duration;

use engine::error::Result;
use engine::rt::Rt;

/// How long a step of a start waits for what is short (space, descriptors, memory of the kernel) before the start ends with that reason.
pub const SHORTAGE_MAX: Duration = Duration::from_secs(30);

/// When a step is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Repeats a step of the start for as long as something is short that comes back, but not for longer than [`SHORTAGE_MAX`].
///
/// # Errors
/// Those of the step.
pub async fn wait_out<T, F>(rt: &Rt, mut step: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let (began, mut said) = (rt.now(), false);
    loop {
        match step().await {
            Err(short) if short.is_passing() && rt.now().since(began) < SHORTAGE_MAX => {
                if !std::mem::replace(&mut said, true) {
                    let (file, limit_seconds) = (short.path.display(), SHORTAGE_MAX.as_secs());
                    tracing::warn!(%file, what = short.what, limit_seconds, "the start waits for what is short");
                }
                rt.sleep(RETRY).await;
            }
            done => return done,
        }
    }
}
