//! `ringkeep ctl`: what an operator asks of a running cluster, over the PD port of any member.
//!
//! The member that is named says who hosts the scheduler, and that one is asked. What is asked of a region becomes an operator, whose steps
//! the scheduler takes one by one; the command returns when the operator has begun, and of a split when it is over.
//!
//! What moves data can be rehearsed (`--dry-run`), what loses it is asked about ([`confirm`]). Every answer is a table or JSON ([`table`]).
//!
//! Before anything is asked a host is waited for, a few seconds at most: while the scheduler moves or one is elected, nothing of the command has
//! been sent, so nothing is done twice.
//!
//! Exit codes: 0 done; 1 refused, with the reason on standard error; 2 wrong usage, or not confirmed; 3 no member answers; 4 not healthy, or not
//! done in the time that was given; 5 members answer, and none hosts the scheduler; 78 a secret that cannot be used.

pub(crate) mod cluster;
mod confirm;
mod keys;
mod regions;
pub(crate) mod stores;
mod table;
mod top;
mod waiting;
mod why;

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use engine::rt::{CoreOptions, Rt, start_core};
use store::secret::ClusterSecret;
use store::wire::grpc::Code;
use store::wire::pd::client::{CallError, SchedulerClient};

use self::cluster::{ConfigWish, PolicyWish};
use self::regions::{ListArguments, OperatorWish, Place, SplitArguments, Wish};
use self::stores::{DrainArguments, EvictArguments, StoreWish, StoresArguments};
use self::table::Answer;
use self::top::TopArguments;
use self::why::About;
use crate::output::{EXIT_CONFIG, Format, answer, fail, remark};
use crate::settings::secret_of_operator;

/// The cluster refuses it.
const EXIT_REFUSED: u8 = 1;
/// What was typed makes no sense, or was not confirmed.
const EXIT_USAGE: u8 = 2;
/// No member answers.
const EXIT_UNREACHABLE: u8 = 3;
/// Members answer, and no scheduler was elected in time.
const EXIT_NO_HOST: u8 = 5;
/// The cluster is not healthy, or something is not done in time.
const EXIT_NOT_YET: u8 = 4;

/// Arguments of `ringkeep ctl`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 done; 1 refused; 2 wrong usage, or not confirmed; 3 no member answers; 4 not healthy, or not done in time; 5 no node hosts the\n\
                  scheduler yet.\n\n\
                  Example: ringkeep ctl --pd 10.0.0.1:20160 cluster"
)]
pub(crate) struct CtlArguments {
    /// PD port (base_port) of a member, or of several
    #[arg(
        long,
        global = true,
        value_name = "ADDR[,ADDR]",
        value_delimiter = ',',
        default_value = "127.0.0.1:20160"
    )]
    pd: Vec<String>,
    /// File with the secret of the cluster, if its nodes have one [env: RINGKEEP_CLUSTER_SECRET_FILE, or RINGKEEP_CLUSTER_SECRET for the
    /// secret itself]
    #[arg(long, global = true, value_name = "FILE")]
    cluster_secret_file: Option<PathBuf>,
    /// Configuration file (TOML) of a node, for the secret that it has or names [env: RINGKEEP_CONFIG]
    #[arg(long = "config", global = true, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// How answers are written
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Say how the cluster does, and how many nodes it can lose; exit code 4 if it is not healthy
    #[command(after_help = "Example: ringkeep ctl cluster --output json")]
    Cluster,
    /// List the nodes with what their stores come to, or the stores of one
    #[command(alias = "nodes", after_help = "Example: ringkeep ctl node 2")]
    Node {
        /// Id of the node
        #[arg(value_parser = keys::id)]
        node: Option<u64>,
    },
    /// List the stores of all nodes: how each does, as the scheduler sees it, and when it was last heard
    #[command(after_help = "Example: ringkeep ctl stores --output json")]
    Stores(StoresArguments),
    /// List the stores, or show or change one
    #[command(after_help = "Example: ringkeep ctl store remove 3 --dry-run")]
    #[command(args_conflicts_with_subcommands = true)]
    Store {
        #[command(flatten)]
        listed: StoresArguments,
        #[command(subcommand)]
        wish: Option<StoreWish>,
    },
    /// List the nodes that keep the scheduler's state, and which of them leads
    #[command(alias = "members", after_help = "Example: ringkeep ctl member")]
    Member,
    /// List the regions with their replicas and the keys that they have
    #[command(after_help = "Example: ringkeep ctl regions --state short")]
    Regions(ListArguments),
    /// Show or change a region: its replicas, its leader, its range
    #[command(after_help = "Example: ringkeep ctl region key user:17")]
    Region {
        #[command(subcommand)]
        wish: Wish,
    },
    /// Hand the leadership of a region to the replica on a store
    #[command(after_help = "Example: ringkeep ctl transfer 7 3 --dry-run")]
    Transfer(Place),
    /// Move the replica of a region to another store of its node
    #[command(after_help = "Example: ringkeep ctl relocate 7 2 --dry-run")]
    Relocate(Place),
    /// Cut a region in two
    #[command(after_help = "Example: ringkeep ctl split 7 --key user:5000")]
    Split(SplitArguments),
    /// List what is being done to regions and was done last, or end it
    #[command(alias = "operators", after_help = "Example: ringkeep ctl operator cancel 7")]
    Operator {
        #[command(subcommand)]
        wish: Option<OperatorWish>,
    },
    /// Keep leaders off a store
    #[command(after_help = "Example: ringkeep ctl evict 3")]
    Evict(EvictArguments),
    /// Keep leaders off all stores of a node, before it is stopped
    #[command(after_help = "Example: ringkeep ctl drain 2 --wait 60")]
    Drain(DrainArguments),
    /// List the scheduler's policies, or switch one on or off
    #[command(after_help = "Example: ringkeep ctl scheduler off balance-leader")]
    Scheduler {
        #[command(subcommand)]
        wish: Option<PolicyWish>,
    },
    /// List the scheduler's configuration, or change a value of it. Names end with their unit: _ms, _bytes, _percent; others are counts
    #[command(after_help = "Example: ringkeep ctl config set leader_tolerance 10")]
    Config {
        #[command(subcommand)]
        wish: Option<ConfigWish>,
    },
    /// Say why a region or a store is as it is
    #[command(after_help = "Example: ringkeep ctl why region 7")]
    Why {
        #[command(subcommand)]
        about: About,
    },
    /// Show what nodes, cores and the hottest regions do, again and again
    #[command(after_help = "Example: ringkeep ctl top --once --output json")]
    Top(TopArguments),
}

/// Why a command comes to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CtlError {
    Call(CallError),
    Refused(String),
    Usage(String),
    NotYet(String),
}

impl From<CallError> for CtlError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl CtlError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Call(CallError::Refused(_)) | Self::Refused(_) => EXIT_REFUSED,
            Self::Call(CallError::NoHost(_)) => EXIT_NO_HOST,
            Self::Call(CallError::Unreachable(_)) => EXIT_UNREACHABLE,
            Self::Usage(_) => EXIT_USAGE,
            Self::NotYet(_) => EXIT_NOT_YET,
        }
    }
}

/// Where nothing answers as a member would, the address is likely to be the wrong one.
impl fmt::Display for CtlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) | Self::Usage(why) | Self::NotYet(why) => f.write_str(why),
            Self::Call(error @ CallError::Refused(status)) if status.code != Code::Unimplemented => {
                write!(f, "{error}")
            }
            Self::Call(error @ CallError::NoHost(_)) => write!(f, "{error}; try again in some seconds"),
            Self::Call(error @ (CallError::Refused(_) | CallError::Unreachable(_))) => {
                write!(f, "{error}: name a member's PD port with --pd, such as --pd 127.0.0.1:20160")
            }
        }
    }
}

/// Runs `ringkeep ctl`.
pub(crate) fn run(arguments: &CtlArguments) -> ExitCode {
    let members = match members(&arguments.pd) {
        Ok((members, wrong)) => {
            wrong.iter().for_each(|why| remark(&format!("{why}; the others are asked")));
            members
        }
        Err(why) => return fail(&why, EXIT_USAGE),
    };
    let flag = arguments.cluster_secret_file.as_deref();
    let secret = match secret_of_operator(flag, arguments.settings.as_deref()) {
        Ok(secret) => secret,
        Err(why) => return fail(&why.to_string(), EXIT_CONFIG),
    };
    let (what, format) = (arguments.what.clone(), arguments.output);
    let options = CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() };
    let asked =
        start_core(&options, move |rt| async move { ask(&rt, (members, secret), what, format).await });
    match asked {
        Ok(Ok((said, is_well))) => {
            said.printed(format).inspect(|text| answer(text));
            if is_well { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NOT_YET) }
        }
        Ok(Err(why)) => fail(&why, why.exit_code()),
        Err(error) => fail(&format!("{error}: ringkeep doctor says what the host allows"), EXIT_REFUSED),
    }
}

/// Where the members that are named are reached, and what is wrong with those that are not, as long as there is one.
///
/// # Errors
/// None of them is an address.
fn members(places: &[String]) -> Result<(Vec<SocketAddr>, Vec<String>), String> {
    let (mut members, mut wrong) = (Vec::new(), Vec::new());
    for place in places {
        match place.to_socket_addrs() {
            Ok(found) => members.extend(found),
            Err(error) => {
                wrong.push(format!("--pd {place}: {error}: write HOST:PORT, such as 127.0.0.1:20160"));
            }
        }
    }
    if members.is_empty() { Err(wrong.join("; ")) } else { Ok((members, wrong)) }
}

/// The answer, and whether all is well.
async fn ask(
    rt: &Rt,
    (members, secret): (Vec<SocketAddr>, Option<ClusterSecret>),
    what: What,
    format: Format,
) -> Result<(Answer, bool), CtlError> {
    let scheduler = SchedulerClient::by_way_of(rt, members, secret);
    waiting::for_host(rt, &scheduler).await?;
    let answer = match what {
        What::Cluster => return cluster::show(rt, &scheduler).await,
        What::Node { node } => stores::nodes(&scheduler, node).await,
        What::Stores(listed) | What::Store { listed, wish: None } => stores::list(&scheduler, listed).await,
        What::Store { listed: _, wish: Some(wish) } => stores::change(&scheduler, wish).await,
        What::Member => cluster::members(&scheduler).await,
        What::Regions(wanted) => regions::list(&scheduler, wanted).await,
        What::Region { wish } => regions::change(rt, &scheduler, wish).await,
        What::Transfer(place) => regions::transfer(&scheduler, place).await,
        What::Relocate(place) => regions::relocate(&scheduler, place).await,
        What::Split(wanted) => regions::split(rt, &scheduler, wanted).await,
        What::Operator { wish } => regions::operators(&scheduler, wish).await,
        What::Evict(wanted) => stores::evict(&scheduler, wanted).await,
        What::Drain(wanted) => stores::drain(rt, &scheduler, wanted).await,
        What::Scheduler { wish } => cluster::policies(&scheduler, wish).await,
        What::Config { wish } => cluster::settings(&scheduler, wish).await,
        What::Why { about } => why::answer(&scheduler, about).await,
        What::Top(wanted) => top::show(rt, &scheduler, wanted, format).await,
    };
    Ok((answer?, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_is_no_address_is_left_out_as_long_as_there_is_another() {
        let named =
            |places: &[&str]| members(&places.iter().map(|&place| place.to_owned()).collect::<Vec<_>>());
        let good = "127.0.0.1:7".parse().expect("an address");
        assert_eq!(named(&["127.0.0.1:7"]), Ok((vec![good], Vec::new())));
        for places in [["127.0.0.1:7", "bad"], ["bad", "127.0.0.1:7"]] {
            let (members, wrong) = named(&places).expect("one is good");
            assert_eq!(members, [good]);
            assert!(wrong.len() == 1 && wrong[0].contains("--pd bad: "), "{wrong:?}");
        }
        let none = named(&["bad", "worse"]).expect_err("none is");
        assert!(none.contains("--pd bad: ") && none.contains("--pd worse: "), "{none}");
    }
}
