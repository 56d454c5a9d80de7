//! The node that hosts the scheduler is lost again and again, in every way: how long nothing is given out, and how long nothing is
//! scheduled. A test of all days forces eight changes, `RINGKEEP_CHANGES=100` a hundred.

use std::collections::BTreeSet;
use std::time::Duration;

use store::wire::grpc::Status;
use store::wire::proto::metapb::Region;
use store::wire::proto::pdpb::{
    GetMembersRequest, GetMembersResponse, ScanRegionsRequest, ScanRegionsResponse,
};
use store::wire::proto::ringkeep::{OperateRequest, OperateResponse, RegionWish};

use super::asking::{Loss, Run, SETTLED_MAX, TWO_ELECTIONS, unary, voters};
use super::nodes::{beside, stores};

/// How long one look waits, so that what is measured is not the time_max of who looks.
const LOOK_MAX: Duration = Duration::from_millis(100);

/// What a leader may take to report.
const BEAT: Duration = Duration::from_secs(1);
/// The ways, in turn.
const LOSSES: [Loss; 4] = [Loss::Killed, Loss::WithoutPower, Loss::CutOff, Loss::Paused];

/// What one change cost.
#[derive(Debug)]
struct Change {
    /// Until the members that are left give out timestamps or ids under another host.
    given: Duration,
    /// Until the new host knows where every key is and takes an order for a region.
    scheduled: Duration,
}

impl Run {
    /// Whether the member `asked` says that another node than `lost` hosts the scheduler.
    fn says_other(&self, asked: usize, lost: usize) -> bool {
        let pd = self.members[asked].pd();
        let said: Option<GetMembersResponse> = beside(&self.world, move |rt| async move {
            let request = GetMembersRequest::default();
            rt.timeout(LOOK_MAX, unary(&rt, pd, "/pdpb.PD/GetMembers", &request)).await??.ok()
        });
        let urls = said.and_then(|said| said.leader).map(|leader| leader.client_urls);
        urls.is_some_and(|urls| !urls.contains(&format!("http://{}", self.members[lost].pd())))
    }

    /// The regions with the store of each leader, if the scheduler that `asked` reaches knows where every key is.
    pub(super) fn whole_map(&self, asked: usize) -> Option<Vec<(Region, u64)>> {
        let pd = self.members[asked].pd();
        let scan = ScanRegionsRequest::default();
        let known: ScanRegionsResponse = beside(&self.world, move |rt| async move {
            rt.timeout(LOOK_MAX, unary(&rt, pd, "/pdpb.PD/ScanRegions", &scan)).await??.ok()
        })?;
        let mut regions = Vec::new();
        let mut next = Some(Vec::new());
        for known in known.regions {
            let (region, leader) = (known.region?, known.leader?);
            if next.as_deref() != Some(&region.start_key[..]) {
                return None;
            }
            next = (!region.end_key.is_empty()).then(|| region.end_key.to_vec());
            regions.push((region, leader.store_id));
        }
        (next.is_none() && !regions.is_empty()).then_some(regions)
    }

    /// Asks the scheduler to move the leader of a region from one of the members that are left to the other. Why it takes no such order.
    fn orders(&self, asked: usize, gone: &BTreeSet<u64>) -> Result<(), String> {
        let regions = self.whole_map(asked).ok_or("the scheduler does not know where every key is")?;
        let movable = |(region, leader): &(Region, u64)| {
            let to = voters(region).into_iter().find(|store| store != leader && !gone.contains(store));
            to.filter(|_| !gone.contains(leader)).map(|store| (region.id, store))
        };
        let mut refused = format!("no leader can be moved: {regions:?}");
        for (region, store) in regions.iter().filter_map(movable) {
            let wish = RegionWish::TransferLeader.into();
            let wish = OperateRequest { region, wish, store, ..OperateRequest::default() };
            let pd = self.members[asked].pd();
            let said: Option<Result<OperateResponse, Status>> = beside(&self.world, move |rt| async move {
                unary(&rt, pd, "/ringkeep.Scheduler/Operate", &wish).await
            });
            match said {
                Some(Ok(_)) => return Ok(()),
                other => refused = format!("region {region} to store {store}: {other:?}"),
            }
        }
        Err(refused)
    }

    fn change(&mut self, loss: Loss) -> Result<Change, String> {
        let host = self.agreed_host()?;
        let asked = (host + 1) % 3;
        let lost = self.members[host].pd().ip().to_string();
        let known = stores(&self.world, self.members[asked].pd());
        let gone = known.into_iter().filter(|(.., address)| address.starts_with(&format!("{lost}:")));
        let gone: BTreeSet<u64> = gone.map(|(store, ..)| store).collect();
        assert!(!gone.is_empty(), "{lost} has stores");
        let since = self.world.now();
        self.lose(host, loss);
        let until = since + SETTLED_MAX;
        let late = |run: &Self, what: &str| match run.world.now() > until {
            true => Err(format!("{loss:?}: {what}")),
            false => Ok(()),
        };
        while !self.says_other(asked, host) {
            late(self, "no other host")?;
            self.pass(Duration::from_millis(10))?;
        }
        let answered = self.answered();
        while self.answered() == answered {
            late(self, "nothing is given out")?;
            self.pass(Duration::from_millis(10))?;
        }
        let given = self.world.now() - since;
        while let Err(why) = self.orders(asked, &gone) {
            late(self, &format!("nothing is scheduled: {why}"))?;
            self.pass(Duration::from_millis(10))?;
        }
        let scheduled = self.world.now() - since;
        self.bring_back(host, loss)?;
        self.pass(Duration::from_millis(500 + self.world.below(1000)))?;
        Ok(Change { given, scheduled })
    }
}

fn median_and_worst(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

#[test]
#[expect(clippy::print_stderr, reason = "the figures are what the test is for")]
fn hosts_are_lost_one_after_the_other_and_scheduling_goes_on() {
    let count = std::env::var("RINGKEEP_CHANGES").map_or(8, |count| count.parse().expect("a number"));
    let mut run = Run::begin(141, 3).expect("the nodes begin");
    let first = run.members[0].pd();
    run.wait_regions(first, |region| voters(region).len() == 3).expect("they spread");
    // Until the beat after it has become a member a node knows of the first one only, and is lost with it.
    run.pass(3 * BEAT).expect("nothing is asked yet");
    run.ask_every(50);
    let mut changes = Vec::new();
    for number in 0..count {
        let loss = LOSSES[number % LOSSES.len()];
        let change = run.change(loss).unwrap_or_else(|why| panic!("change {number}: {why}"));
        eprintln!("{number} {loss:?} {change:?}");
        changes.push(change);
    }
    run.done.set(true);
    run.pass(Duration::from_secs(3)).expect("nothing was given out twice or too late");
    let (given, given_max) = median_and_worst(changes.iter().map(|change| change.given).collect());
    let (scheduled, scheduled_max) =
        median_and_worst(changes.iter().map(|change| change.scheduled).collect());
    eprintln!(
        "{count} changes, {} answers: ids and timestamps after {given:.1?} (worst {given_max:.1?}), scheduling after {scheduled:.1?} (worst \
         {scheduled_max:.1?})",
        run.answered()
    );
    assert!(run.answered() > 50 * count as u64, "{} answers", run.answered());
    assert!(given_max < TWO_ELECTIONS, "nothing was given out for {given_max:?}");
    // Regions of the lost node elect at the same time, and their new leaders say so with the next beat.
    assert!(scheduled_max < TWO_ELECTIONS + BEAT, "nothing was scheduled for {scheduled_max:?}");
}
