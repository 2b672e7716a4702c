//! What kernel programs tell, as it comes.
use std::{fmt, io, marker::PhantomData};

use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

/// Something that a program writes into a ring buffer.
pub trait Record: Sized {
    const BYTES: usize;

    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// Reads from the kernel's ring buffer, without waiting.
pub struct Events<T> {
    ring: RingBuf<MapData>,
    of: PhantomData<T>,
}

impl<T: Record> Events<T> {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring, of: PhantomData }
    }

    /// The next one, if it is there.
    pub fn take(&mut self) -> Option<T> {
        take(&mut self.ring)
    }

    /// The same, to be awaited. Must be called on a tokio runtime.
    pub fn stream(self) -> io::Result<EventStream<T>> {
        // SAFETY: the ring owns its map's descriptor, gives no other, and keeps it open until it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(self.ring, Interest::READABLE) }?;
        Ok(EventStream { ring, of: PhantomData })
    }
}

/// Waits for events.
pub struct EventStream<T> {
    ring: AsyncFd<RingBuf<MapData>>,
    of: PhantomData<T>,
}

impl<T: Record> EventStream<T> {
    /// The next one. May be dropped while it waits: no event is lost.
    pub async fn next(&mut self) -> io::Result<T> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            if let Some(event) = take(ready.get_inner_mut()) {
                return Ok(event);
            }
            // Empty. What comes between the look and this line makes the descriptor ready anew.
            ready.clear_ready();
        }
    }
}

impl<T> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for EventStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

fn take<T: Record>(ring: &mut RingBuf<MapData>) -> Option<T> {
    loop {
        let item = ring.next()?;
        // A record of another length comes from no program of ours; pass it over.
        if item.len() == T::BYTES
            && let Some(event) = T::decode(&item)
        {
            return Some(event);
        }
    }
}
