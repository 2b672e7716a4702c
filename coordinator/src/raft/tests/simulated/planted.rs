//! Mistakes that a member could make, and that a judge must see: a simulation that finds none of them is blind.

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A leader answers reads without asking the others whether it still leads.
    ReadWithoutQuorum,
    /// An append is answered when it is handed over, not when the disk has it.
    AcknowledgedBeforeDurable,
    /// A vote is given and not written.
    VoteForgotten,
    /// Nothing is ever synced.
    NeverSynced,
    /// A snapshot lacks the last command that it is said to cover.
    SnapshotWithoutLast,
    /// What is proposed is answered before it is agreed on.
    AnsweredBeforeCommitted,
}
