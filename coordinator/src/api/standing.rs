//! Streams that end when their caller may not be here any more: its token was revoked or has expired, its user
//! removed, or its certificate revoked.
//!
//! Wraps what a caller sends and what it gets; both end at once, the answer with a status that says why.
//! Start at [`Watched`].

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, HttpBody};
use cluster::Access;
use futures::future::BoxFuture;
use http::HeaderMap;
use hyper::body::{Bytes, Frame, SizeHint};
use model::{ClusterTime, Refusal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{error, guard::Asker};
use crate::leader::LeaderHandle;

/// How much of the cluster's time may pass before the ends of tokens are looked at again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Wakes those who watch an open stream, whenever somebody may have lost a right. Counts these moments; what is true
/// then is read from the state.
pub(super) type Standings = watch::Receiver<u64>;

/// Follows the agreed state, so that open streams need not look at each entry of the log.
pub(super) async fn follow(leader: LeaderHandle, standings: watch::Sender<u64>, stop: CancellationToken) {
    let mut changed = leader.changed();
    let mut known = Access::default();
    let mut looked_at = ClusterTime::ZERO;
    loop {
        let state = leader.state();
        let is_later = state.counted().since(looked_at) >= LOOK_INTERVAL && !state.access().tokens.is_empty();
        if is_later || !is_same(&known, state.access()) {
            known = state.access().clone();
            looked_at = state.counted();
            standings.send_modify(|moments| *moments += 1);
        }
        drop(state);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changed.changed() => if changed.is_err() { return },
        }
    }
}

/// Whether two are one and the same, which costs nothing to see.
fn is_same(known: &Access, now: &Access) -> bool {
    let Access { users, tokens, duties, revoked } = now;
    known.users.ptr_eq(users)
        && known.tokens.ptr_eq(tokens)
        && known.duties.ptr_eq(duties)
        && known.revoked.ptr_eq(revoked)
}

/// Ready when the caller may not be here any more. It was allowed to begin, so nothing is looked at before
/// somebody may have lost a right.
pub(super) fn ended(
    asker: Asker,
    path: String,
    leader: LeaderHandle,
    mut standings: Standings,
) -> BoxFuture<'static, Refusal> {
    Box::pin(async move {
        while standings.changed().await.is_ok() {
            let state = leader.state();
            if let Err(refusal) = asker.stands(&path, state.access(), state.counted()) {
                return refusal;
            }
        }
        // This member stops, which ends its streams anyway.
        std::future::pending().await
    })
}

/// What a caller sends: it breaks off when the caller may not be here any more.
pub(super) struct Sent<B> {
    body: B,
    ended: BoxFuture<'static, Refusal>,
    is_over: bool,
}

/// Why what a caller sent was not read to its end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BrokenOff(String);

impl<B> Sent<B> {
    pub(super) fn new(body: B, ended: BoxFuture<'static, Refusal>) -> Self {
        Self { body, ended, is_over: false }
    }
}

impl<B> HttpBody for Sent<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(refusal) = self.ended.as_mut().poll(context) {
            self.is_over = true;
            return Poll::Ready(Some(Err(Box::new(BrokenOff(refusal.message)))));
        }
        Pin::new(&mut self.body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a caller gets: it ends with a status when the caller may not be here any more.
pub(super) struct Watched {
    body: Body,
    ended: BoxFuture<'static, Refusal>,
    is_over: bool,
}

impl Watched {
    pub(super) fn new(body: Body, ended: BoxFuture<'static, Refusal>) -> Self {
        Self { body, ended, is_over: false }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(refusal) = self.ended.as_mut().poll(context) {
            self.is_over = true;
            let mut trailers = HeaderMap::new();
            return match error::status(&refusal).add_header(&mut trailers) {
                Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                // It can't be put into words: then the stream just ends, which a caller takes for an error too.
                Err(_status) => Poll::Ready(None),
            };
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
