//! What a follower does when the leader's connection breaks: it looks whether the leader's process is gone, and if so
//! stands at once, instead of waiting for an election timeout.
//!
//! A refused connection to the leader's address says that nobody listens there any more; a host that is cut off says
//! nothing, and is waited for as ever. The pre-vote stays: others agree only once they have seen the same.
//! Start at [`Succession`]; why a wrong guess harms nobody is in `docs/decisions/consensus.md`.
//!
//! ## Design
//!
//! The one with the lowest id stands first, so that two don't split the votes; its log may be the shorter one, so the
//! others stand a moment later. What keeps a member from voting while its leader is fresh is openraft's lease, which is
//! ended as a leader that hands over ends it: by a transfer, here to nobody new, so that it does nothing else.

use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, Stream, future, future::BoxFuture};
use openraft::{async_runtime::watch::WatchReceiver, raft::TransferLeaderRequest};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::{debug, info};

use super::{
    member::Openraft,
    types::{MemberId, Vote},
};

/// A process that is ended closes what it listens on within moments of its connections.
const LOOKS: usize = 20;
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// What does not answer within this is cut off, not gone.
const LOOK_PATIENCE: Duration = Duration::from_millis(100);
/// From one member that may stand to the next: new connections, two rounds of votes and their syncs. The first one's
/// turn is at once, so this is waited for only where it fails.
const TURN: Duration = Duration::from_millis(100);
/// The others may notice later; after that the election timeout is near.
const ATTEMPTS: u32 = 4;

/// Connects to host:port, and says nothing there.
pub type Knock = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<()>> + Send + Sync>;

/// Over the kernel's network.
pub fn knock() -> Knock {
    Arc::new(|address| async move { TcpStream::connect(address).await.map(drop) }.boxed())
}

/// What another member sends, and the news when that breaks off: every heartbeat is a stream of its own that ends in
/// order, and only one that doesn't says anything of its sender.
pub struct Watched<S> {
    messages: S,
    from: MemberId,
    has_ended: bool,
    broken: mpsc::Sender<MemberId>,
}

impl<S> Watched<S> {
    pub fn new(messages: S, from: MemberId, broken: mpsc::Sender<MemberId>) -> Self {
        Self { messages, from, has_ended: false, broken }
    }
}

impl<S: Stream + Unpin> Stream for Watched<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let next = Pin::new(&mut self.messages).poll_next(context);
        self.has_ended |= matches!(next, Poll::Ready(None));
        next
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        if !self.has_ended {
            // Where there is no room, streams break all the time, and an election timeout tells what is lost here.
            let _ = self.broken.try_send(self.from);
        }
    }
}

/// Looks after one lost leader at a time.
pub struct Succession {
    raft: Openraft,
    own: MemberId,
    knock: Knock,
    /// Members whose streams broke off.
    broken: mpsc::Receiver<MemberId>,
    step: Step,
}

enum Step {
    Idle,
    Looking(BoxFuture<'static, Option<Vacancy>>),
    Standing { lost: Vote, stand: BoxFuture<'static, ()> },
}

/// The place of a leader that may be gone.
struct Vacancy {
    leader: MemberId,
    /// That it was given.
    vote: Vote,
    address: String,
    /// Of this member among those that are left.
    turn: u32,
    turns: u32,
}

impl Succession {
    pub fn new(raft: Openraft, own: MemberId, knock: Knock, broken: mpsc::Receiver<MemberId>) -> Self {
        Self { raft, own, knock, broken, step: Step::Idle }
    }

    /// Whether the leader with this vote is known to be gone.
    pub fn is_vacant(&self, vote: &Vote) -> bool {
        match &self.step {
            Step::Standing { lost, .. } => lost == vote,
            Step::Idle | Step::Looking(_) => false,
        }
    }

    /// Does the next step when its time has come. Safe to drop: what is under way stays.
    pub async fn go_on(&mut self) {
        self.step = match &mut self.step {
            Step::Idle => match self.broken.recv().await {
                Some(lost) => match vacancy(&self.raft, self.own, lost) {
                    Some(vacancy) => Step::Looking(look(self.knock.clone(), vacancy).boxed()),
                    None => Step::Idle,
                },
                None => future::pending().await,
            },
            Step::Looking(look) => match look.await {
                Some(vacancy) => {
                    info!(leader = vacancy.leader, "the leader's process is gone, so another member stands");
                    Step::Standing { lost: vacancy.vote, stand: stand(self.raft.clone(), vacancy).boxed() }
                }
                None => Step::Idle,
            },
            Step::Standing { stand, .. } => {
                stand.await;
                Step::Idle
            }
        };
    }
}

/// `None`: whoever was lost doesn't lead, or this member may not stand.
fn vacancy(raft: &Openraft, own: MemberId, lost: MemberId) -> Option<Vacancy> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    if metrics.current_leader != Some(lost) || own == lost {
        return None;
    }
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<MemberId> = membership.voter_ids().filter(|id| *id != lost).collect();
    Some(Vacancy {
        leader: lost,
        vote: metrics.vote,
        address: membership.get_node(&lost)?.addr.clone(),
        turn: u32::try_from(voters.iter().position(|id| *id == own)?).ok()?,
        turns: u32::try_from(voters.len()).ok()?,
    })
}

/// Gives the place back if the leader's host answers that nobody listens there.
async fn look(knock: Knock, vacancy: Vacancy) -> Option<Vacancy> {
    for _look in 0..LOOKS {
        match timeout(LOOK_PATIENCE, knock(vacancy.address.clone())).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Some(vacancy),
            Ok(Err(_)) | Err(_) => break,
            Ok(Ok(())) => sleep(LOOK_INTERVAL).await,
        }
    }
    debug!(leader = vacancy.leader, "the leader's connection broke, and its process may still be there");
    None
}

/// Takes part in an early election.
async fn stand(raft: Openraft, vacancy: Vacancy) {
    let Vacancy { leader, vote, address: _, turn, turns } = vacancy;
    for attempt in 0..ATTEMPTS {
        let end_lease = TransferLeaderRequest::new(vote, leader, None);
        // What fails here is that this member stops.
        if raft.handle_transfer_leader(end_lease).await.is_err() {
            return;
        }
        sleep(if attempt == 0 { TURN * turn } else { TURN * turns }).await;
        // A member that has voted, or heard a new leader, waits for that. Metrics would tell it later.
        let is_vacant = raft.with_raft_state(move |state| *state.vote_ref() == vote).await;
        if !matches!(is_vacant, Ok(true)) || raft.trigger().elect(true).await.is_err() {
            return;
        }
    }
    // The last one's votes.
    sleep(TURN).await;
}
