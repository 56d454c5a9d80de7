//! Deliberate mistakes, to prove that the tests would see them. Present only with the feature `planted-bugs`, which
//! nothing but this crate's own tests switches on; without it every question is answered "no" at compile time.

#[cfg(feature = "planted-bugs")]
use std::cell::Cell;

/// The mistakes that can be switched on, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the mistakes")]
#[cfg_attr(not(feature = "planted-bugs"), allow(unreachable_pub, reason = "public with the feature"))]
pub enum Bug {
    VoteTwice,
    VoteIgnoresLog,
    VoteNotPersisted,
    CommitOldTermByCount,
    CommitWithoutQuorum,
    AckBeforeDurable,
    SelfAckBeforeDurable,
    AckSurvivesTruncation,
    AppendSkipsPrevCheck,
    TruncateOnEveryAppend,
    HeartbeatCommitsBeyondMatch,
    ChangeWhileOnePending,
    ChangeBeforeOwnTermCommit,
    CampaignWithUnappliedChange,
    JointNeedsOneMajority,
    LearnerCountsInQuorum,
    TimeoutNowToLearner,
    LeaseKeptDuringTransfer,
    LeaseFromReplyTime,
    VoterBreaksPromise,
    ReadBeforeOwnTermCommit,
    ReadAnsweredWithoutRound,
    SnapshotBelowCommitInstalled,
    SnapshotKeepsOldMembership,
    ApplyBeforeDurable,
    OvertakenChangeStored,
    OrderForgotten,
    OrderSurvivesTerm,
    LateOrderFollowed,
    TransferNeedsOwnApply,
    TransferWaitsForHeartbeat,
    SentSnapshotTrusted,
    LateReportBelieved,
    LateFetchBelieved,
    LateBlankBelieved,
    HigherTermRestartsTimer,
    StaleClock,
    CaughtUpTooEarly,
    DoubtEndsASwap,
    DoubtForgotten,
    SilentLearner,
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Switches one mistake on for this thread, or all off.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

#[cfg(feature = "planted-bugs")]
pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn is_planted(_: Bug) -> bool {
    false
}

/// Whether the named mistake is switched on.
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is_planted($crate::planted::Bug::$bug)
    };
}
pub(crate) use planted;
