//! Bugs that tests plant, to show that the test of a whole node catches them. Without the feature `sim` there are none.

/// A mistake that the cores of a node, the scheduler shard and its store, or the nodes of a cluster could make together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An answer of another core goes to a request that it does not belong to.
    WrongAnswer,
    /// An answer to another core is dropped.
    LostAnswer,
    /// A write for another core is acknowledged before that core has it.
    AnsweredEarly,
    /// A change that came from another core is made twice.
    AppliedTwice,
    /// A core closes its links when the drain begins, while connections of other cores wait for it.
    LinksClosedInDrain,
    /// A core closes its stores when the drain begins, before its connections have finished.
    StoresClosedFirst,
    /// What a command of the system group comes to is answered before its entry is durable and applied.
    DecidedEarly,
    /// The timestamp window is saved in the log and not in the tree.
    WindowLost,
    /// A state that has begun is begun again.
    StateBegunTwice,
    /// The file of 0.1 is taken over again although the state has begun.
    FileTakenTwice,
    /// The file of 0.1 is removed before what it held is durable elsewhere.
    FileRemovedEarly,
    /// Requests of users are led to the system group.
    StateReadable,
    /// A window that could not be saved is taken for saved.
    RefusedTakenForDone,
    /// What rests on a write of the log is said before that write.
    SaidBeforeWrite,
    /// Votes do not reach the disk.
    VoteNotStored,
    /// An acknowledgement of one peer counts for another, too.
    CountedForAnother,
    /// What waited for a lost leadership hears that it is done.
    LostCalledDone,
    /// A leader reads without a lease and without asking the others.
    ReadUnasked,
    /// A replica that does not lead answers a read without asking the leader.
    ReplicaUnasked,
    /// A leader answers a comparison that failed from its state, without a lease and without an entry of its own.
    ComparedUnasked,
    /// A read-modify-write is computed before the leader has applied an entry of its own term.
    ComputedEarly,
    /// What the scheduler answers to another node is lost.
    AnswersLost,
    /// A node drains with everything that it leads.
    NothingHandedOver,
    /// The addresses of stores that a core asked for are not entered into its book.
    AddressesLost,
    /// The scheduler's state stays what it was when a snapshot of it arrives.
    RowsNotLoaded,
    /// A leader of the system group takes its lease for endless.
    FenceOpen,
    /// A node goes on as the scheduler's host when its replica leads no more.
    OfficeKept,
    /// Voters of the system group that are gone for good keep their place.
    GoneVotersKept,
    /// What is said of other members that may host the scheduler is not remembered.
    PlacesForgotten,
    /// A node that is notified where the scheduler is ignores it.
    HostNotHeard,
    /// Where other nodes are is forgotten by a restart.
    ContactsForgotten,
    /// Whoever reports for a store is believed.
    StrangersBelieved,
    /// Whoever calls the PD port of a node counts as one who has proved the secret of the cluster.
    CallersBelieved,
    /// One method for nodes is open to any caller.
    MethodOpen,
    /// A store that proves no secret is believed by one that has one.
    PeersBelieved,
    /// A proof is not looked at.
    ProofNotChecked,
    /// A side draws the same for every connection.
    NonceKept,
    /// An older copy of a store is recognised by the count of its openings alone.
    CopyCounted,
    /// A store forgets that it was refused as an older copy.
    RefusalForgotten,
    /// A node that joins may have the address of a store that has joined.
    AddressGivenAway,
    /// A node one of whose stores was taken out of use is refused as one that has none left.
    OneGoneEndsStart,
    /// A node none of whose stores is in use starts.
    NoneLeftStarts,
    /// The answer to a beat does not say that a store was taken out of use.
    GoneNotSaid,
    /// A store that moves is not looked for where it was.
    OldPlaceNotAsked,
    /// A directory that has an identity is not compared with the cluster that it is to join.
    ClusterNotCompared,
    /// A change of membership is proposed although too few voters would be heard after it.
    QuorumNotAsked,
    /// A request that was routed by another version of the region is let in.
    StaleRoute,
    /// A scan goes on behind the region as the newest routes have it, instead of the one that answered.
    ScanSkips,
    /// A scan goes on with its last key instead of behind it.
    ScanRepeats,
    /// Values in flight outlive the version under which they were admitted.
    InflightSurvives,
    /// A region is not marked for the next turn if one is marked already.
    MarkLost,
    /// A write does not wait for those that older routes have sent.
    WritesOvertake,
    /// A core takes no newer routes.
    RoutesKept,
    /// A write that was refused is sent again although a later one of the same key was carried out.
    WritesComeLate,
    /// Where a region was is believed although the store there has refused.
    OldOwnerKept,
    /// A read is served when its index is known, applied or not.
    ReadBeforeApplied,
    /// Entries that a snapshot has overtaken are applied once more.
    AppliedAfterSnapshot,
    /// A new descriptor travels with the batch after the one that has its entry.
    DescribedLate,
    /// A new descriptor reaches the tree before the batch that has its entry.
    DescribedEarly,
    /// A snapshot is accepted over the range of another region.
    SnapshotOverNeighbour,
    /// The log is reset to the end of a snapshot before the tree has its data.
    LogBeforeTree,
    /// What a range held before is not deleted when a snapshot replaces it.
    OldRowsKept,
    /// The files of a snapshot are taken in before they are synced.
    UnsyncedPieces,
    /// A snapshot that was delivered counts as applied.
    AppliedWithoutData,
    /// A split leaves the version of its region as it was.
    VersionNotRaised,
    /// The tree does not learn of the replica that a split brings into being.
    HalfNotDescribed,
    /// The tree learns of it in the batch after the one that has the split's applied index.
    HalfDescribedLate,
    /// The log does not learn where a replica that a split brought into being comes from.
    OriginLost,
    /// A message creates a replica in the range of another region.
    CreatedOverNeighbour,
    /// A split takes the place of a replica that was removed before it was applied here.
    RemovedComesBack,
    /// Votes for a region whose split is not applied here yet are dropped.
    EarlyVotesLost,
    /// A replica is destroyed while the tree has the regions that it was split into in memory only.
    DestroyedUnflushed,
    /// A replica comes after one that was removed, whose data is deleted in the tree's memory only.
    BuriedInMemory,
    /// The log of a removed peer goes on as that of the next one.
    OldLogKept,
    /// The tables say of a peer that was removed before it had anything what they had of the one before it.
    OldMarkKept,
    /// What was written or read for a removed peer is reported to the next one.
    WriteOfAnOldPeerCounts,
    /// A replica that has heard of its removal stays published until the next turn.
    RouteOfTheDead,
    /// A store that is not heard any more wakes no group that is led from there.
    DeadStoreIgnored,
    /// A leader that sleeps reads as if its lease did not end.
    LeaseKeptAsleep,
    /// A store whose log hangs goes on to say that it lives.
    StuckStoreGreets,
    /// A follower on a store of the same node is sent its snapshot.
    SiblingsSentTo,
    /// What the stores of a node say to each other is lost.
    SiblingsUnheard,
    /// The names of tables that are handed over are removed before they are taken in.
    NamesRemovedEarly,
    /// A replica that waits for its first snapshot and hears no other member says nothing.
    BlankIsMute,
    /// How many nodes may fail is said without the group that keeps the scheduler's state.
    StateNotCounted,
    /// A node does not say that the cluster does not take its stores.
    RefusalNotShown,
    /// The health of a store's port does not depend on whether the cluster has the store in use.
    GoneServes,
    /// The log does not learn who invited a replica.
    InvitationLost,
    /// A region that waits to be taken in goes on to be read and written.
    SourceGoesOn,
    /// A region is taken in where it has not come to its prepare yet.
    TakenInBehind,
    /// A region is to be taken in although not every replica has its prepare on disk.
    CommittedEarly,
    /// The tombstone of a region that was taken in is not in the batch.
    EndNotDescribed,
    /// A region that waits goes on as soon as its target is another one here than the prepare has named, also an older one.
    RolledBackBlindly,
    /// A region that waits to be taken in has its members changed and is split.
    SourceChanges,
    /// A region is to be taken in by a store that does not lead it.
    CommittedUnled,
    /// What a region had proposed that ends with a snapshot counts as never done.
    FateGuessed,
    /// Who was removed from a region before that was taken in hears only the latter.
    RemovedWaitsForMerge,
    /// A region forgets what it has taken in although one of its replicas has yet to hear of it.
    ForgottenEarly,
    /// A source that lies beside the snapshot of a target that was split since stays, in the way of what was split off.
    SourceLeftBeside,
}

impl Bug {
    /// Those that the nodes of a cluster make together.
    pub const BETWEEN_NODES: [Self; 9] = [
        Self::SaidBeforeWrite,
        Self::VoteNotStored,
        Self::CountedForAnother,
        Self::LostCalledDone,
        Self::ReadUnasked,
        Self::ReplicaUnasked,
        Self::ComparedUnasked,
        Self::ComputedEarly,
        Self::ReadBeforeApplied,
    ];

    /// Those of snapshots that travel.
    pub const SNAPSHOTS: [Self; 5] = [
        Self::SnapshotOverNeighbour,
        Self::LogBeforeTree,
        Self::OldRowsKept,
        Self::UnsyncedPieces,
        Self::AppliedWithoutData,
    ];

    /// Those of the cores.
    pub const ALL: [Self; 6] = [
        Self::WrongAnswer,
        Self::LostAnswer,
        Self::AnsweredEarly,
        Self::AppliedTwice,
        Self::LinksClosedInDrain,
        Self::StoresClosedFirst,
    ];

    /// Those of the scheduler's state.
    pub const STATE: [Self; 7] = [
        Self::DecidedEarly,
        Self::WindowLost,
        Self::StateBegunTwice,
        Self::FileTakenTwice,
        Self::FileRemovedEarly,
        Self::StateReadable,
        Self::RefusedTakenForDone,
    ];

    /// Those of one region, which its scripts show.
    pub const REGION: [Self; 4] = [
        Self::InflightSurvives,
        Self::ReadBeforeApplied,
        Self::AppliedAfterSnapshot,
        Self::WriteOfAnOldPeerCounts,
    ];

    /// Those of groups that sleep, which the scripts of regions show, too.
    pub const QUIET: [Self; 2] = [Self::DeadStoreIgnored, Self::LeaseKeptAsleep];

    /// Those of splits, which the scripts of regions show.
    pub const SPLIT: [Self; 7] = [
        Self::VersionNotRaised,
        Self::InflightSurvives,
        Self::CreatedOverNeighbour,
        Self::RemovedComesBack,
        Self::EarlyVotesLost,
        Self::HalfNotDescribed,
        Self::DestroyedUnflushed,
    ];

    /// Those of splits that lose something when the power goes.
    pub const SPLIT_ON_DISK: [Self; 3] = [Self::HalfNotDescribed, Self::HalfDescribedLate, Self::OriginLost];

    /// Those of peers that come where another one of the region was removed.
    pub const RETURN: [Self; 2] = [Self::BuriedInMemory, Self::OldLogKept];

    /// Those of regions that move between the stores of a node.
    pub const RELOCATION: [Self; 3] = [Self::SiblingsSentTo, Self::SiblingsUnheard, Self::NamesRemovedEarly];

    /// Those that moves from one store of a node to the other show, among all else that befalls a cluster.
    pub const MOVES: [Self; 1] = [Self::NamesRemovedEarly];

    /// Those by which a replica without data stays although it was removed.
    pub const BLANK: [Self; 2] = [Self::BlankIsMute, Self::InvitationLost];

    /// Those that part a descriptor from its data.
    pub const DESCRIPTOR: [Self; 2] = [Self::DescribedLate, Self::DescribedEarly];

    /// Those of merges.
    pub const MERGE: [Self; 5] = [
        Self::SourceGoesOn,
        Self::TakenInBehind,
        Self::CommittedEarly,
        Self::EndNotDescribed,
        Self::RolledBackBlindly,
    ];

    /// Those of merges that the scripts of regions show.
    pub const MERGE_STEPS: [Self; 10] = [
        Self::SourceGoesOn,
        Self::CommittedEarly,
        Self::EndNotDescribed,
        Self::RolledBackBlindly,
        Self::SourceChanges,
        Self::CommittedUnled,
        Self::FateGuessed,
        Self::RemovedWaitsForMerge,
        Self::ForgottenEarly,
        Self::SourceLeftBeside,
    ];

    /// The bug with this name, of those that a simulated cluster can be given.
    pub fn named(name: &str) -> Option<Self> {
        let between =
            Self::BETWEEN_NODES.into_iter().chain(Self::SNAPSHOTS).chain(Self::REGION).chain(Self::ROUTES);
        let split = Self::SPLIT.into_iter().chain(Self::SPLIT_ON_DISK).chain(Self::DESCRIPTOR);
        between
            .chain(split)
            .chain(Self::QUIET)
            .chain(Self::MOVES)
            .chain(Self::MERGE)
            .chain([Self::QuorumNotAsked, Self::StuckStoreGreets])
            .find(|bug| format!("{bug:?}") == name)
    }

    /// Those of routes that change.
    pub const ROUTES: [Self; 8] = [
        Self::StaleRoute,
        Self::ScanSkips,
        Self::ScanRepeats,
        Self::InflightSurvives,
        Self::MarkLost,
        Self::WritesOvertake,
        Self::WritesComeLate,
        Self::RoutesKept,
    ];
}

#[cfg(any(test, feature = "sim"))]
mod planted {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
        static REMEMBERED: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// Sets on this thread how many regions that were taken in a record remembers, or no longer. So few that a test reaches it.
    pub fn remember(taken: Option<usize>) {
        REMEMBERED.set(taken);
    }

    pub(crate) fn remembered() -> Option<usize> {
        REMEMBERED.get()
    }

    /// Plants `bug` on this thread, or takes the planted one away.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(any(test, feature = "sim"))]
pub use planted::{plant, remember};
#[cfg(any(test, feature = "sim"))]
pub(crate) use planted::{planted, remembered};

#[cfg(not(any(test, feature = "sim")))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

#[cfg(not(any(test, feature = "sim")))]
pub(crate) const fn remembered() -> Option<usize> {
    None
}
