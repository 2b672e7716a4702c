//! The durable events of one framework: kept until it acknowledges them, but not without bound.
//!
//! Above [`limits::EVENTS_KEPT_MAX`] the oldest that is no final status is dropped.
//! A final status is never dropped before it is acknowledged; launches are refused when too many pile up.

use std::{ops::Bound, sync::Arc};

use model::{Cursor, FrameworkEvent, RequestId, TaskId, limits};

use crate::{outcome::Answer, state::Framework};

/// What a framework that has handled everything up to some cursor has missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventsAfter {
    /// Every event since, oldest first, up to the limit that was asked for.
    Kept(Vec<(Cursor, Arc<FrameworkEvent>)>),
    /// Some of them are gone: show it the latest status of every task, then go on from here.
    Compacted { resume: Cursor },
}

impl Framework {
    /// What came after `cursor`, at most `limit` events.
    pub fn events_after(&self, cursor: Cursor, limit: usize) -> EventsAfter {
        if cursor < self.acknowledged || self.compacted_to.is_some_and(|compacted| cursor < compacted) {
            return EventsAfter::Compacted { resume: self.last_event() };
        }
        let after = self.events.range((Bound::Excluded(cursor), Bound::Unbounded));
        EventsAfter::Kept(after.take(limit).map(|(cursor, event)| (*cursor, event.clone())).collect())
    }

    /// The latest event that there ever was, as far as is known.
    pub fn last_event(&self) -> Cursor {
        let kept = self.events.get_max().map_or(Cursor::START, |(cursor, _)| *cursor);
        kept.max(self.acknowledged).max(self.compacted_to.unwrap_or(Cursor::START))
    }

    /// How many events are final statuses.
    pub fn finals_pending(&self) -> usize {
        self.events.len() - self.droppable.len()
    }

    /// The answer that one of its requests got.
    pub fn answer_to(&self, request: &RequestId) -> Option<&Answer> {
        self.answers.get(request)
    }

    /// Adds an event, and drops the oldest droppable one above the bound.
    pub(crate) fn push_event(&mut self, cursor: Cursor, event: Arc<FrameworkEvent>) {
        if !event.is_final_status() {
            self.droppable.insert(cursor);
        }
        self.events.insert(cursor, event);
        if self.droppable.len() > limits::EVENTS_KEPT_MAX
            && let Some(oldest) = self.droppable.remove_min()
        {
            self.events.remove(&oldest);
            self.compacted_to = self.compacted_to.max(Some(oldest));
        }
    }

    /// Drops all events up to the cursor; answers the tasks whose final status was among them, or `None`
    /// when there was nothing to acknowledge.
    pub(crate) fn acknowledge(&mut self, cursor: Cursor) -> Option<Vec<TaskId>> {
        let mut heard = Vec::new();
        let mut last = None;
        while let Some((oldest, event)) = self.events.get_min()
            && *oldest <= cursor
        {
            let oldest = *oldest;
            if let FrameworkEvent::Status(status) = event.as_ref()
                && status.state.is_final()
            {
                heard.push(status.task_id.clone());
            }
            last = Some(oldest);
            self.events.remove(&oldest);
            self.droppable.remove(&oldest);
        }
        self.acknowledged = last?;
        Some(heard)
    }
}
