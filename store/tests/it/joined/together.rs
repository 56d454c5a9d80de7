//! Members that restart together while the node that hosted the scheduler stays away: nothing but what they have kept themselves says
//! where the others are.

use std::net::SocketAddr;
use std::time::Duration;

use engine::rt::sim::{Options, World};
use store::plant::{self, Bug};
use store::wire::grpc::client::Client;
use store::wire::proto::kvrpcpb::{Context, RawPutRequest, RawPutResponse};
use store::wire::proto::metapb::Region;

use super::nodes::beside;
use super::replicated::Run;

/// Within this time a region whose members have restarted takes writes again: elections after a restart of two of three nodes.
const SERVED_MAX: Duration = Duration::from_secs(60);

/// Writes into a region through any replica at `addrs`. Whether one of them has taken it within the time.
fn write_into(world: &World, region: &Region, addrs: &[(u64, SocketAddr)]) -> bool {
    let places: Vec<(Context, SocketAddr)> = region
        .peers
        .iter()
        .filter_map(|peer| {
            let (_, addr) = addrs.iter().find(|(store, _)| *store == peer.store_id)?;
            let context = Context {
                region_id: region.id,
                region_epoch: region.region_epoch,
                peer: Some(*peer),
                ..Context::default()
            };
            Some((context, *addr))
        })
        .collect();
    // A key inside: the boundaries of regions are encoded, and a key above one of them is in the region.
    let key = [&region.start_key[..], b"0"].concat();
    beside(world, move |rt| async move {
        let until = rt.now() + SERVED_MAX;
        while rt.now() < until {
            for (context, addr) in &places {
                let put = RawPutRequest {
                    context: Some(*context),
                    key: key.clone().into(),
                    value: b"kept".to_vec().into(),
                    ..RawPutRequest::default()
                };
                let Ok(client) = Client::connect(&rt, *addr).await else { continue };
                let asked = client.unary::<RawPutResponse>("/tikvpb.Tikv/RawPut", &put);
                if let Some(Ok(answer)) = rt.timeout(Duration::from_secs(3), asked).await
                    && answer.region_error.is_none()
                    && answer.error.is_empty()
                {
                    return true;
                }
            }
            rt.sleep(Duration::from_millis(200)).await;
        }
        false
    })
}

/// The first node dies, the two others are killed and restart. Regions that take no writes then.
fn regions_that_are_lost(seed: u64, power: bool) -> Result<Vec<u64>, String> {
    let mut run = Run::new(World::new(seed, Options::default()));
    run.begin()?;
    run.shared.done.set(true);
    run.pass(Duration::from_secs(15))?;
    let regions = run.regions();
    let known = super::nodes::stores(&run.world, run.members[0].pd());
    let addrs: Vec<(u64, SocketAddr)> =
        known.iter().map(|(id, _, address)| (*id, address.parse().expect("IP:PORT"))).collect();
    run.members.iter_mut().for_each(|member| member.end(power));
    for member in &mut run.members[1..] {
        // Nothing waits until it has found the scheduler.
        member.begin(&[]);
    }
    // The last one lies above every key that is accepted.
    let written = regions.iter().filter(|region| !region.end_key.is_empty());
    let lost = written.filter(|region| !write_into(&run.world, region, &addrs));
    Ok(lost.map(|region| region.id).collect())
}

#[test]
fn members_that_restart_together_elect_without_the_node_that_is_gone() {
    for (seed, power) in [(81, true), (82, false)] {
        assert_eq!(regions_that_are_lost(seed, power), Ok(Vec::new()), "seed {seed}");
    }
    plant::plant(Some(Bug::ContactsForgotten));
    let lost = regions_that_are_lost(81, true);
    plant::plant(None);
    assert!(lost.is_ok_and(|lost| !lost.is_empty()), "addresses that are forgotten went unnoticed");
}
