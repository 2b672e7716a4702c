//! How fresh an answer must be, and how fresh it was.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::{Request, metadata::MetadataMap};

/// How fresh the answers to reads must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// What the leader has applied; one that was deposed a moment ago may not know it yet.
    #[default]
    Leader,
    /// What the member that is asked has applied; also answered while nobody leads.
    Local,
    /// At least everything that was acknowledged before the call.
    Linearizable,
}

impl Consistency {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Local => "local",
            Self::Linearizable => "linearizable",
        }
    }
}

/// How fresh an answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    pub member_id: u64,
    /// The last entry of the log in that member's state.
    pub applied: u64,
    /// The last entry that it knew to be agreed on.
    pub committed: u64,
    /// Since it had word of the leader; a leader: of a majority. Absent: there is no other member.
    pub heard: Option<Duration>,
}

impl fmt::Display for Freshness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { member_id, applied, committed, heard } = self;
        write!(formatter, "as member {member_id} knows it: entry {applied}")?;
        if committed > applied {
            write!(formatter, " of {committed}")?;
        }
        match heard {
            Some(heard) => write!(formatter, ", {:.2} s after it last heard the others", heard.as_secs_f64()),
            None => Ok(()),
        }
    }
}

/// The wish, and what was told about the last answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    wanted: Consistency,
    told: Arc<Mutex<Option<Freshness>>>,
}

impl Reading {
    pub(crate) fn new(wanted: Consistency) -> Self {
        Self { wanted, told: Arc::default() }
    }

    pub(crate) fn ask(&self, request: &mut Request<()>) {
        if self.wanted != Consistency::Leader
            && let Ok(word) = self.wanted.as_str().parse()
        {
            request.metadata_mut().insert("muster-consistency", word);
        }
    }

    pub(crate) fn hear(&self, head: &MetadataMap) {
        let number = |key| head.get(key)?.to_str().ok()?.parse::<u64>().ok();
        let freshness = || {
            Some(Freshness {
                member_id: number("muster-member-id")?,
                applied: number("muster-applied-index")?,
                committed: number("muster-committed-index")?,
                heard: number("muster-heard-ms").map(Duration::from_millis),
            })
        };
        if let Some(freshness) = freshness() {
            *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(freshness);
        }
    }

    pub(crate) fn told(&self) -> Option<Freshness> {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_how_fresh_it_is() {
        let reading = Reading::new(Consistency::Local);
        let mut head = MetadataMap::new();
        reading.hear(&head);
        assert_eq!(reading.told(), None);
        for (key, value) in [
            ("muster-member-id", "2"),
            ("muster-applied-index", "12"),
            ("muster-committed-index", "15"),
            ("muster-heard-ms", "345"),
        ] {
            head.insert(key, value.parse().unwrap());
        }
        reading.hear(&head);
        let told = reading.told().unwrap().to_string();
        assert_eq!(told, "as member 2 knows it: entry 12 of 15, 0.34 s after it last heard the others");
    }
}
