//! A no with a reason.

use std::fmt;

/// Why something was not done. A refusal changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub code: RefusalCode,
    /// What was attempted, why not, and what to do.
    pub message: String,
}

impl Refusal {
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Every stable code; each has a page in `docs/errors/`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RefusalCode {
            $($(#[$doc])* $name,)*
        }

        impl RefusalCode {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// A value breaks its rule.
    InvalidArgument = "invalid-argument",
    /// No framework has this id.
    FrameworkUnknown = "framework-unknown",
    /// The framework was torn down; its id is never used again.
    FrameworkEnded = "framework-ended",
    /// Another instance of the framework subscribed since.
    SubscriptionReplaced = "subscription-replaced",
    /// Built-in frameworks can't be changed or torn down.
    FrameworkBuiltIn = "framework-built-in",
    /// No task has this id.
    TaskUnknown = "task-unknown",
    /// The task belongs to another framework.
    TaskNotYours = "task-not-yours",
    /// A task with this id is known already.
    TaskIdTaken = "task-id-taken",
    /// The offer expired, was used, rescinded, or made by an earlier leader.
    OfferUnknown = "offer-unknown",
    /// The offer was made to another framework.
    OfferNotYours = "offer-not-yours",
    /// The offers of one Accept are of several agents or roles.
    OffersMixed = "offers-mixed",
    /// The task needs more than the offers hold.
    ExceedsOffer = "exceeds-offer",
    /// The agent has no longer what was offered.
    AgentLacksResources = "agent-lacks-resources",
    /// No agent has this id.
    AgentUnknown = "agent-unknown",
    /// The agent does not answer now.
    AgentUnreachable = "agent-unreachable",
    /// An operator took the agent out of use.
    AgentDeactivated = "agent-deactivated",
    /// An operator said that the agent never comes back; its id is never used again.
    AgentGone = "agent-gone",
    /// The agent registered anew since.
    EpochStale = "epoch-stale",
    /// The agent belongs to another cluster.
    ClusterForeign = "cluster-foreign",
    /// Another agent uses this id.
    AgentIdTaken = "agent-id-taken",
    /// No coordinator has this member id.
    MemberUnknown = "member-unknown",
    /// Another coordinator has this member id.
    MemberIdTaken = "member-id-taken",
    /// The coordinator does not have enough of the log yet.
    MemberBehind = "member-behind",
    /// The coordinator could not read the cluster's log.
    MemberTooOld = "member-too-old",
    /// Without this coordinator nobody would be left to vote.
    MemberLast = "member-last",
    /// A queue or table is full; try again later.
    Busy = "busy",
    /// This member does not lead, and knows no leader to send to.
    NoLeader = "no-leader",
    /// Whether it was done is not known; repeat with the same request id.
    OutcomeUnknown = "outcome-unknown",
    /// The caller showed no valid credential.
    Unauthenticated = "unauthenticated",
    /// Plain text came where TLS is spoken, or TLS is not set up.
    TlsNeeded = "tls-needed",
    /// The certificate is of another cluster, has ended, or is missing.
    CertificateRefused = "certificate-refused",
    /// The join token was used, has expired, was revoked, or is not known.
    JoinTokenRefused = "join-token-refused",
    /// Who asks is known, and may not do this.
    NotPermitted = "not-permitted",
    /// No user has this name, and no token this id.
    UserUnknown = "user-unknown",
    /// The request came from a web page or for a host that isn't served here.
    OriginRefused = "origin-refused",
    /// The request needs a newer cluster version.
    ClusterVersionTooOld = "cluster-version-too-old",
    /// The output was never there or is gone.
    OutputGone = "output-gone",
    /// The history of usage was never there or is older than what is kept.
    HistoryGone = "history-gone",
    /// The task does not run (any more), so nothing can be done in it.
    TaskNotRunning = "task-not-running",
    /// The task's sandbox was never there or is gone.
    SandboxGone = "sandbox-gone",
    /// The sandbox has no such file.
    FileUnknown = "file-unknown",
    /// The file or archive entry is of a kind, at a place or of a size that is not handled.
    FileRefused = "file-refused",
    /// The command could not be started in the task.
    ExecFailed = "exec-failed",
    /// The task has no input, its input has ended, or somebody else writes it.
    InputRefused = "input-refused",
    /// What the agent began in a channel could not be finished.
    ChannelBroken = "channel-broken",
    /// A bug or a damaged disk: the log says more.
    Internal = "internal",
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
