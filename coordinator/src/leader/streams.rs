//! The sending ends of the streams of frameworks and agents.
//!
//! Sending never waits: what the channel has no room for stands in a bounded queue, and whoever leaves
//! it there for too long is disconnected.

use std::{collections::VecDeque, time::Duration};

use futures::future::BoxFuture;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// Messages in a stream's channel: a turn's worth.
pub(super) const CHANNEL_MESSAGES: usize = 256;
/// Messages that wait for the channel. A reader that is this far behind does not read.
const QUEUE_MESSAGES_MAX: usize = 4096;
/// How long messages may wait for the channel. Tests have less patience.
const BLOCKED_MAX: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(30) };

/// What a stream has to say by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signal<Id> {
    /// The channel has room for what waits.
    Room(Id),
    /// All that was sent has been read, or nearly.
    Drained(Id),
    /// The reader is gone.
    Closed(Id),
    /// The stream was ended from our side; nothing to do.
    Ended,
}

/// One stream's sending end.
#[derive(Debug)]
pub(super) struct Outlet<Id, Message> {
    id: Id,
    sender: mpsc::Sender<Message>,
    queue: VecDeque<Message>,
    blocked_since: Option<Instant>,
    /// Ends what waits for the reader, so that the channel closes with the outlet.
    stop: CancellationToken,
}

/// Why a stream must end: its reader does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooSlow;

impl<Id, Message> Outlet<Id, Message>
where
    Id: Clone + Send + 'static,
    Message: Send + 'static,
{
    pub(super) fn new(id: Id) -> (Self, mpsc::Receiver<Message>) {
        let (sender, receiver) = mpsc::channel(CHANNEL_MESSAGES);
        let stop = CancellationToken::new();
        (Self { id, sender, queue: VecDeque::new(), blocked_since: None, stop }, receiver)
    }

    /// Resolves when the reader is gone.
    pub(super) fn closed(&self) -> BoxFuture<'static, Signal<Id>> {
        let (id, sender, stop) = (self.id.clone(), self.sender.clone(), self.stop.clone());
        Box::pin(async move {
            tokio::select! {
                () = sender.closed() => Signal::Closed(id),
                () = stop.cancelled() => Signal::Ended,
            }
        })
    }

    /// Resolves when at least half of the channel is free.
    pub(super) fn drained(&self) -> BoxFuture<'static, Signal<Id>> {
        self.wait_for(CHANNEL_MESSAGES / 2, Signal::Drained(self.id.clone()))
    }

    /// Sends or queues. Answers a future that resolves when there is room again, if that must be waited for.
    pub(super) fn send(
        &mut self,
        message: Message,
    ) -> Result<Option<BoxFuture<'static, Signal<Id>>>, TooSlow> {
        if !self.queue.is_empty() {
            if self.queue.len() >= QUEUE_MESSAGES_MAX {
                return Err(TooSlow);
            }
            self.queue.push_back(message);
            return Ok(None);
        }
        match self.sender.try_send(message) {
            // A closed channel is noticed by `closed`.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(None),
            Err(mpsc::error::TrySendError::Full(message)) => {
                self.queue.push_back(message);
                self.blocked_since = Some(Instant::now());
                Ok(Some(self.room()))
            }
        }
    }

    /// Sends what waits, as far as there is room. Answers a future as [`Self::send`] does.
    pub(super) fn flush(&mut self) -> Option<BoxFuture<'static, Signal<Id>>> {
        while let Some(message) = self.queue.pop_front() {
            match self.sender.try_send(message) {
                Ok(()) => self.blocked_since = Some(Instant::now()),
                Err(mpsc::error::TrySendError::Closed(_)) => self.queue.clear(),
                Err(mpsc::error::TrySendError::Full(message)) => {
                    self.queue.push_front(message);
                    return Some(self.room());
                }
            }
        }
        self.blocked_since = None;
        None
    }

    /// Whether messages have waited for too long.
    pub(super) fn is_too_slow(&self, now: Instant) -> bool {
        self.blocked_since.is_some_and(|since| now.duration_since(since) > BLOCKED_MAX)
    }

    fn room(&self) -> BoxFuture<'static, Signal<Id>> {
        self.wait_for(1, Signal::Room(self.id.clone()))
    }

    fn wait_for(&self, permits: usize, signal: Signal<Id>) -> BoxFuture<'static, Signal<Id>> {
        let (sender, stop) = (self.sender.clone(), self.stop.clone());
        Box::pin(async move {
            tokio::select! {
                // A closed channel has room for everything: `closed` says the rest.
                _room = sender.reserve_many(permits) => signal,
                () = stop.cancelled() => Signal::Ended,
            }
        })
    }
}

impl<Id, Message> Drop for Outlet<Id, Message> {
    fn drop(&mut self) {
        // The last words go out if there is room for them.
        for message in self.queue.drain(..) {
            if self.sender.try_send(message).is_err() {
                break;
            }
        }
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_keep_their_order_through_a_full_channel() {
        let (mut outlet, mut reader) = Outlet::<u8, usize>::new(1);
        let mut room = None;
        for number in 0..CHANNEL_MESSAGES + 10 {
            room = outlet.send(number).unwrap().or(room);
        }
        let room = room.unwrap();
        for number in 0..5 {
            assert_eq!(reader.recv().await, Some(number));
        }
        assert_eq!(room.await, Signal::Room(1));
        let mut room = outlet.flush();
        for number in 5..CHANNEL_MESSAGES + 10 {
            if let Some(wait) = room.take() {
                assert_eq!(reader.recv().await, Some(number));
                assert_eq!(wait.await, Signal::Room(1));
                room = outlet.flush();
                continue;
            }
            assert_eq!(reader.recv().await, Some(number));
        }
        drop(outlet);
        assert_eq!(reader.recv().await, None);
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_is_too_slow() {
        let (mut outlet, reader) = Outlet::<u8, usize>::new(1);
        let mut waits = Vec::new();
        for number in 0..CHANNEL_MESSAGES + QUEUE_MESSAGES_MAX {
            waits.extend(outlet.send(number).unwrap());
        }
        assert_eq!(outlet.send(0).err(), Some(TooSlow));
        assert_eq!(waits.len(), 1);
        let closed = outlet.closed();
        drop(reader);
        assert_eq!(closed.await, Signal::Closed(1));
    }

    #[tokio::test]
    async fn an_ended_stream_closes_although_its_room_is_waited_for() {
        let (outlet, mut reader) = Outlet::<u8, usize>::new(1);
        let waits = [outlet.closed(), outlet.drained()];
        drop(outlet);
        for wait in waits {
            let signal = wait.await;
            assert!(matches!(signal, Signal::Ended | Signal::Drained(1)), "{signal:?}");
        }
        assert_eq!(reader.recv().await, None);
    }
}
