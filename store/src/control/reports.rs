//! What the data cores report to the scheduler shard: one beat per core and second, as plain values.
//!
//! ```text
//!   data core ── Beat { stores: [ StoreBeat { descriptor, report, regions } ] } ──▶ control
//! ```
//!
//! A beat says everything that its core knows now, so a newer one makes an older one superfluous. The sender waits for room in
//! the queue instead of dropping its message: a scheduler shard that is behind hears later, never less.

use scheduler::{RegionReport, StoreDescriptor, StoreReport};

/// Everything that one core reports at one moment.
#[derive(Clone, Debug, Default)]
pub struct Beat {
    /// The core's stores.
    pub stores: Vec<StoreBeat>,
}

/// What one store reports.
#[derive(Clone, Debug)]
pub struct StoreBeat {
    /// Who it is and where clients reach it.
    pub descriptor: StoreDescriptor,
    /// How full and how busy it is.
    pub report: StoreReport,
    /// The regions that it leads.
    pub regions: Vec<RegionReport>,
}
