//! Rate limit of log lines per call site: a maximum per window, the rest counted.
//!
//! The table is a fixed array of atomics, found by the address of the call site's static description, so that cores neither
//! wait for each other here nor allocate. The window is advanced by the writing thread ([`super::queue`]), which also says what
//! was left out; so no core reads a clock for it. Two cores that meet at a change of window may let a line or two more through.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one call site in one window of [`WINDOW_SECONDS`].
pub(super) const LINES_PER_WINDOW: u64 = 20;
/// Length of a window.
pub(super) const WINDOW_SECONDS: u64 = 10;
/// Call sites that are limited; more than the product has. Those beyond it share the last place.
const SITES: usize = 256;

/// The limit of every call site.
#[derive(Debug)]
pub(super) struct Limit {
    window: AtomicU64,
    sites: Box<[Site]>,
    suppressed: AtomicU64,
}

#[derive(Debug, Default)]
struct Site {
    what: OnceLock<&'static Metadata<'static>>,
    window: AtomicU64,
    admitted: AtomicU64,
    suppressed: AtomicU64,
}

impl Default for Limit {
    fn default() -> Self {
        let sites = (0..SITES).map(|_| Site::default()).collect();
        Self { window: AtomicU64::new(0), sites, suppressed: AtomicU64::new(0) }
    }
}

impl Limit {
    /// Whether a line from this call site may be written now. Debugging levels are asked for and always may.
    fn admits(&self, what: &'static Metadata<'static>) -> bool {
        if *what.level() > Level::INFO {
            return true;
        }
        let site = self.site(what);
        let window = self.window.load(Ordering::Relaxed);
        if site.window.swap(window, Ordering::Relaxed) != window {
            site.admitted.store(0, Ordering::Relaxed);
        }
        let admitted = site.admitted.fetch_add(1, Ordering::Relaxed) < LINES_PER_WINDOW;
        if !admitted {
            site.suppressed.fetch_add(1, Ordering::Relaxed);
            self.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    fn site(&self, what: &'static Metadata<'static>) -> &Site {
        let address = std::ptr::from_ref(what).addr();
        let first = address / align_of::<Metadata<'_>>() % SITES;
        let places = (first..SITES).chain(0..first);
        let ours = |place: &usize| {
            let held = self.sites[*place].what.get_or_init(|| what);
            std::ptr::eq(*held, what)
        };
        let place = places.into_iter().find(ours).unwrap_or(SITES - 1);
        &self.sites[place]
    }

    /// Begins the next window, and returns per call site how many lines were left out since it was last asked.
    pub(super) fn next_window(&self) -> Vec<(&'static Metadata<'static>, u64)> {
        self.window.fetch_add(1, Ordering::Relaxed);
        let left_out = |site: &Site| {
            let count = site.suppressed.swap(0, Ordering::Relaxed);
            site.what.get().copied().filter(|_| count > 0).map(|what| (what, count))
        };
        self.sites.iter().filter_map(left_out).collect()
    }

    /// Lines left out so far, over all call sites.
    pub(super) fn suppressed(&self) -> u64 {
        self.suppressed.load(Ordering::Relaxed)
    }
}

/// The limit as a layer: an event that it refuses reaches no other layer.
pub(super) struct Limiter(pub(super) std::sync::Arc<Limit>);

impl<S: Subscriber> Layer<S> for Limiter {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.admits(event.metadata())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Runs `log` under the limit alone and returns how many of its events got through.
    fn passed(limit: &Arc<Limit>, log: impl FnOnce()) -> u64 {
        #[derive(Clone, Default)]
        struct Count(Arc<AtomicU64>);
        impl<S: Subscriber> Layer<S> for Count {
            fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Count::default();
        let layers = tracing_subscriber::registry().with(count.clone()).with(Limiter(limit.clone()));
        tracing::subscriber::with_default(layers, log);
        count.0.load(Ordering::Relaxed)
    }

    fn noisy(times: u64) {
        (0..times).for_each(|at| tracing::warn!(at, "again"));
    }

    #[test]
    fn a_call_site_that_repeats_itself_is_cut_off_and_the_rest_counted() {
        let limit = Arc::new(Limit::default());
        let through = passed(&limit, || {
            noisy(LINES_PER_WINDOW + 7);
            tracing::warn!("another call site has places of its own");
        });
        assert_eq!((through, limit.suppressed()), (LINES_PER_WINDOW + 1, 7));
        let left_out = limit.next_window();
        assert_eq!(left_out.len(), 1);
        assert_eq!((left_out[0].0.target(), left_out[0].1), (module_path!(), 7));
        assert_eq!(passed(&limit, || noisy(3)), 3, "the next window begins anew");
        assert!(limit.next_window().is_empty());
        assert_eq!(limit.suppressed(), 7, "the counter only grows");
    }

    #[test]
    fn debugging_is_not_limited() {
        let limit = Arc::new(Limit::default());
        let times = 3 * LINES_PER_WINDOW;
        assert_eq!(passed(&limit, || (0..times).for_each(|at| tracing::debug!(at, "detail"))), times);
    }
}
