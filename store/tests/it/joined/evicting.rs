//! A store that is kept from leading, on every node that hosts the scheduler, until that ends.

use std::time::Duration;

use store::wire::proto::ringkeep::{
    EvictRequest, EvictResponse, OperateRequest, OperateResponse, RegionWish,
};

use super::asking::{Run, SETTLED_MAX, voters};

/// Waits until the first store leads this many regions.
fn wait_led(run: &Run, asked: usize, is_wanted: fn(usize) -> bool) {
    let until = run.world.now() + SETTLED_MAX;
    loop {
        let led = run.whole_map(asked).map(|map| map.iter().filter(|(_, leader)| *leader == 1).count());
        if led.is_some_and(is_wanted) {
            return;
        }
        assert!(run.world.now() < until, "store 1 leads {led:?}");
        run.pass(Duration::from_millis(200)).expect("nothing is given out twice");
    }
}

#[test]
fn a_store_that_is_kept_from_leading_leads_nothing_until_that_ends() {
    let mut run = Run::begin(151, 3).expect("the nodes begin");
    let (first, other) = (run.members[0].pd(), run.members[1].pd());
    run.wait_regions(first, |region| voters(region).len() == 3).expect("they spread");
    wait_led(&run, 1, |led| led > 0);
    let evict = |run: &Run, evicting| {
        let request = EvictRequest { store: 1, evicting };
        run.call::<EvictResponse>(other, "/ringkeep.Scheduler/Evict", request).expect("it is taken");
    };
    evict(&run, true);
    wait_led(&run, 1, |led| led == 0);
    // Its node hosts the scheduler and is lost; the next host knows of it, too.
    run.members[0].end(true);
    run.pass(Duration::from_secs(10)).expect("nothing is given out twice");
    run.members[0].start(&run.world, &[]).expect("it comes back");
    let transfer = |run: &Run| {
        let region = run.whole_map(1).expect("every key is known")[0].0.id;
        let wish = RegionWish::TransferLeader.into();
        let wish = OperateRequest { region, wish, store: 1, ..OperateRequest::default() };
        run.call::<OperateResponse>(other, "/ringkeep.Scheduler/Operate", wish)
    };
    run.pass(Duration::from_secs(10)).expect("nothing is given out twice");
    wait_led(&run, 1, |led| led == 0);
    evict(&run, false);
    transfer(&run).expect("it may lead");
    wait_led(&run, 1, |led| led == 1);
    run.pass(Duration::from_secs(10)).expect("nothing is given out twice");
    wait_led(&run, 1, |led| led == 1);
}
