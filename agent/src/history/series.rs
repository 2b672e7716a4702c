//! One row of points over a span of time, oldest first, packed.

use std::collections::VecDeque;

use model::{Duration, Timestamp, Usage};

use super::packed;

/// How a row is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Least time between two points.
    pub step: Duration,
    /// Points older than this are dropped, a chunk at a time.
    pub span: Duration,
    /// Time in one chunk.
    pub chunk: Duration,
    /// Points in one row, however the clock moves.
    pub points_max: usize,
}

/// The row. Begins each chunk with full figures, so that the oldest can be dropped.
#[derive(Debug, Default)]
pub(super) struct Series {
    chunks: VecDeque<Chunk>,
    /// What the newest point says; absent once nothing more comes.
    last: Option<Box<Usage>>,
}

#[derive(Debug)]
struct Chunk {
    first_at: Timestamp,
    last_at: Timestamp,
    points: usize,
    bytes: Vec<u8>,
}

/// What a chunk takes beyond its bytes.
const CHUNK_BYTES: usize = size_of::<Chunk>() + 16;
/// What the newest point takes, unpacked.
const LAST_BYTES: usize = 1024;

impl Series {
    /// Adds a point if it is time for one.
    pub(super) fn push(&mut self, usage: &Usage, shape: &Shape) {
        let newest = self.chunks.back();
        // A step back of the clock is as good as time that passed.
        let is_early = newest
            .is_some_and(|newest| usage.at >= newest.last_at && usage.at.since(newest.last_at) < shape.step);
        if is_early {
            return;
        }
        let is_over = newest
            .is_none_or(|newest| usage.at < newest.last_at || usage.at.since(newest.first_at) >= shape.chunk);
        let before = match self.last.take().filter(|_| !is_over) {
            Some(last) => last,
            None => {
                if let Some(full) = self.chunks.back_mut() {
                    full.bytes.shrink_to_fit();
                }
                let (first_at, last_at) = (usage.at, usage.at);
                self.chunks.push_back(Chunk { first_at, last_at, points: 0, bytes: Vec::new() });
                Box::default()
            }
        };
        if let Some(chunk) = self.chunks.back_mut() {
            packed::pack(&before, usage, &mut chunk.bytes);
            chunk.last_at = usage.at;
            chunk.points += 1;
        }
        self.last = Some(Box::new(usage.clone()));
        self.trim(usage.at, shape);
    }

    /// Nothing more comes.
    pub(super) fn seal(&mut self) {
        self.last = None;
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.bytes.shrink_to_fit();
        }
    }

    /// Drops what is too old.
    fn trim(&mut self, now: Timestamp, shape: &Shape) {
        while self.chunks.len() > 1 {
            let points: usize = self.chunks.iter().map(|chunk| chunk.points).sum();
            let is_old = self.chunks.front().is_some_and(|oldest| now.since(oldest.last_at) > shape.span);
            if !is_old && points <= shape.points_max {
                break;
            }
            self.chunks.pop_front();
        }
    }

    /// Drops the oldest part. False: there is only one.
    pub(super) fn drop_oldest(&mut self) -> bool {
        let has_several = self.chunks.len() > 1;
        if has_several {
            self.chunks.pop_front();
        }
        has_several
    }

    pub(super) fn bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|chunk| chunk.bytes.capacity() + CHUNK_BYTES).sum();
        chunks + self.last.as_ref().map_or(0, |_| LAST_BYTES)
    }

    /// All points, oldest first.
    pub(super) fn points(&self) -> Vec<Usage> {
        let mut points = Vec::new();
        for chunk in &self.chunks {
            let (mut usage, mut bytes) = (Usage::default(), chunk.bytes.as_slice());
            while packed::unpack(&mut usage, &mut bytes).is_some() {
                points.push(usage.clone());
            }
        }
        points
    }
}
