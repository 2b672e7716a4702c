//! From the state machine to the leader's loop and to readers: the latest state, and what changed.
//!
//! Publishing never waits. Changes that nobody takes, as on a member that doesn't lead, are merged up to a
//! bound; beyond it only "everything may have changed" is kept, which the loop can do with.

use std::sync::{Arc, Mutex, PoisonError};

use cluster::{Change, ClusterState};
use tokio::sync::{Notify, watch};

/// Changes that are listed; more become "everything".
const CHANGES_MAX: usize = 100_000;

/// A batch of entries that was applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Of the last entry.
    pub index: u64,
    pub changes: Vec<Change>,
    /// After all of them.
    pub state: ClusterState,
}

/// The end that the state machine holds.
#[derive(Debug, Clone)]
pub struct Feed {
    shared: Arc<Shared>,
    state: watch::Sender<(u64, ClusterState)>,
    changed: watch::Sender<u64>,
}

/// The end that the leader's loop holds.
#[derive(Debug)]
pub struct FeedReader {
    shared: Arc<Shared>,
    pub(super) state: watch::Receiver<(u64, ClusterState)>,
    pub(super) changed: watch::Receiver<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    news: Option<News>,
}

/// What happened since the loop looked last.
#[derive(Debug)]
pub(super) struct News {
    pub(super) state: ClusterState,
    /// `None`: everything may have changed.
    pub(super) changes: Option<Vec<Change>>,
}

/// Connects a state machine with a leader's loop.
pub fn feed(index: u64, state: ClusterState) -> (Feed, FeedReader) {
    let shared = Arc::new(Shared::default());
    let (changed, changed_reader) = watch::channel(index);
    let (state, state_reader) = watch::channel((index, state));
    let feed = Feed { shared: shared.clone(), state, changed };
    (feed, FeedReader { shared, state: state_reader, changed: changed_reader })
}

impl Feed {
    /// Makes a batch known. To be called before the answers of its entries go out.
    pub fn publish(&self, applied: Applied) {
        let Applied { index, changes, state } = applied;
        self.put(index, state, Some(changes));
    }

    /// Makes a state known that came from a snapshot.
    pub fn restored(&self, index: u64, state: ClusterState) {
        self.put(index, state, None);
    }

    fn put(&self, index: u64, state: ClusterState, changes: Option<Vec<Change>>) {
        self.state.send_replace((index, state.clone()));
        {
            let mut pending = self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let before = match pending.news.take() {
                Some(news) => news.changes,
                None => Some(Vec::new()),
            };
            let changes = match (before, changes) {
                (Some(mut before), Some(changes)) if before.len() + changes.len() <= CHANGES_MAX => {
                    before.extend(changes);
                    Some(before)
                }
                (Some(_) | None, Some(_) | None) => None,
            };
            pending.news = Some(News { state, changes });
        }
        self.shared.notify.notify_one();
        self.changed.send_replace(index);
    }
}

impl FeedReader {
    /// What happened since the last call, if anything.
    pub(super) fn take(&mut self) -> Option<News> {
        self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner).news.take()
    }

    /// Waits until [`Self::take`] has something. Safe to drop: a notification that was not taken stays.
    pub(super) async fn ready(&self) {
        self.shared.notify.notified().await;
    }

    pub fn latest(&self) -> ClusterState {
        self.state.borrow().1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_are_merged_and_bounded() {
        let (feed, mut reader) = feed(0, ClusterState::new());
        let batch =
            |index, count| Applied { index, changes: vec![Change::Queue; count], state: ClusterState::new() };
        feed.publish(batch(1, 1));
        feed.publish(batch(2, 2));
        reader.ready().await;
        assert_eq!(reader.take().unwrap().changes.unwrap().len(), 3);
        assert!(reader.take().is_none());
        feed.publish(batch(3, CHANGES_MAX));
        feed.publish(batch(4, 1));
        feed.publish(batch(5, 1));
        assert!(reader.take().unwrap().changes.is_none());
        feed.restored(6, ClusterState::new());
        assert!(reader.take().unwrap().changes.is_none());
        assert_eq!(*reader.changed.borrow(), 6);
    }
}
