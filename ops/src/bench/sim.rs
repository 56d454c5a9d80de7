//! `ringkeep bench sim`: seeds of a simulated cluster, in a binary that was built for it.
//!
//! The simulated world lies below the code of the store, and that code asks for planted bugs then. A binary for production has neither,
//! and says how to build one that has.

use std::process::ExitCode;

use bench::Failed;

use super::BenchArguments;
use super::arguments::SimArguments;

#[cfg(feature = "sim")]
pub(super) fn run(arguments: &BenchArguments, run: &SimArguments) -> Result<ExitCode, Failed> {
    use bench::sim::{Options, SimReport, run_seeds, story};

    use store::plant::Bug;

    use crate::output::remark;
    use crate::signals;

    // A run that panics ends the process in a release build.
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Some(story) = story::current() {
            remark(&format!("{story}a panic ended the run"));
        }
        before(panic);
    }));
    let seeds = match run.seed {
        Some(seed) => seed..seed + 1,
        None => run.first_seed..run.first_seed.saturating_add(run.seeds),
    };
    let threads = run.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let named = |name: &String| {
        Bug::named(name).ok_or_else(|| Failed::new(format!("no planted bug is called {name}")))
    };
    let plant = run.plant.as_ref().map(named).transpose()?;
    let stop =
        signals::noted().map_err(|error| Failed::new(format!("signals cannot be handled: {error}")))?;
    let options = Options { seeds, threads, keep_going: run.keep_going, progress: true, stop, plant };
    super::deliver(arguments, &run_seeds(&options, &mut remark), SimReport::table, SimReport::passed)
}

#[cfg(not(feature = "sim"))]
pub(super) fn run(_: &BenchArguments, _: &SimArguments) -> Result<ExitCode, Failed> {
    Err(Failed::new(
        "this binary is for production and has no simulated world: run `cargo run --release -p ringkeep --features sim -- bench sim`",
    ))
}
