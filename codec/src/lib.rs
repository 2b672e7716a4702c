//! `muster.types.v1` to the model and back: what coordinator and agent both send and store.
//!
//! Every rule about a single value is checked here, once, on the way in; what comes out can't be
//! wrong. An error names the field as the `.proto` file spells it, and the rule that it breaks.
//! The functions named after a type read it; those that begin with `to_` write it.
//! What belongs to one daemon's own messages is converted there, with the small tools at the end of this file.

mod resources;
mod spec;
mod status;
#[cfg(feature = "testing")]
pub mod testing;
mod usage;

use std::{fmt, str::FromStr, time::Duration};

use model::{IdError, Refusal, RefusalCode, limits};

pub use resources::{
    attribute, attributes, checked_resources, resources, to_amounts, to_attributes, to_resources,
};
pub use spec::{task_spec, task_spec_named, to_shown_task_spec, to_task_spec};
pub use status::{exit, reason, task_state, task_status, to_exit, to_reason, to_task_state, to_task_status};
pub use usage::{to_usage, to_usage_report, usage, usage_report};

/// A field of a message, and the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {rule}")]
pub struct Invalid {
    /// From the message's top: `spec.resources.ports[2]`.
    pub field: String,
    /// Reads on after the field: `is missing`.
    pub rule: String,
}

impl Invalid {
    pub fn new(field: &str, rule: impl fmt::Display) -> Self {
        Self { field: field.to_owned(), rule: rule.to_string() }
    }

    pub fn missing(field: &str) -> Self {
        Self::new(field, "is missing")
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::new(RefusalCode::InvalidArgument, invalid.to_string())
    }
}

/// Says where in the message around it a field stands.
pub trait Within {
    fn within(self, field: &str) -> Self;
    fn within_item(self, field: &str, place: usize) -> Self;
}

impl<T> Within for Result<T, Invalid> {
    fn within(self, field: &str) -> Self {
        self.map_err(|error| Invalid { field: joined(field, &error.field), rule: error.rule })
    }

    fn within_item(self, field: &str, place: usize) -> Self {
        self.map_err(|error| Invalid {
            field: joined(&format!("{field}[{place}]"), &error.field),
            rule: error.rule,
        })
    }
}

/// An empty inner field means the outer one as a whole.
fn joined(outer: &str, inner: &str) -> String {
    if inner.is_empty() { outer.to_owned() } else { format!("{outer}.{inner}") }
}

pub fn id<T: FromStr<Err = IdError>>(field: &str, text: &str) -> Result<T, Invalid> {
    if text.is_empty() {
        return Err(Invalid::missing(field));
    }
    text.parse().map_err(|error: IdError| {
        Invalid::new(field, format_args!("is no {}: `{}`: {}", error.kind, error.shown, error.why))
    })
}

/// An id that may be absent, which proto3 tells by an empty text.
pub fn optional_id<T: FromStr<Err = IdError>>(field: &str, text: &str) -> Result<Option<T>, Invalid> {
    if text.is_empty() { Ok(None) } else { id(field, text).map(Some) }
}

pub fn ids<T: FromStr<Err = IdError>>(field: &str, texts: &[String], max: usize) -> Result<Vec<T>, Invalid> {
    at_most(field, texts.len(), max)?;
    texts
        .iter()
        .enumerate()
        .map(|(place, text)| id(field, text).map_err(|error| at_place(error, field, place)))
        .collect()
}

fn at_place(error: Invalid, field: &str, place: usize) -> Invalid {
    Invalid { field: format!("{field}[{place}]"), rule: error.rule }
}

/// Converts each item and says which one was wrong.
pub fn each<W, M>(
    field: &str,
    items: Vec<W>,
    convert: impl Fn(W) -> Result<M, Invalid>,
) -> Result<Vec<M>, Invalid> {
    items.into_iter().enumerate().map(|(place, item)| convert(item).within_item(field, place)).collect()
}

pub fn required<T>(field: &str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::missing(field))
}

pub fn at_most(field: &str, count: usize, max: usize) -> Result<(), Invalid> {
    if count > max {
        return Err(Invalid::new(field, format_args!("has {count} items; at most {max} are allowed")));
    }
    Ok(())
}

/// A text for people or other programs: bounded, and without control characters that would fool a terminal.
pub fn text(field: &str, text: String, max: usize) -> Result<String, Invalid> {
    if text.len() > max {
        return Err(Invalid::new(field, format_args!("has {} bytes; at most {max} are allowed", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new(field, "holds a control character"));
    }
    Ok(text)
}

/// A timeout in milliseconds; longer than a year is cut to a year.
pub fn timeout(ms: u64) -> Duration {
    Duration::from_millis(ms.min(limits::TIMEOUT_MS_MAX))
}

pub fn grace(field: &str, ms: u64) -> Result<Duration, Invalid> {
    if ms > limits::KILL_GRACE_MS_MAX {
        return Err(Invalid::new(field, format_args!("of {ms} ms is longer than a day")));
    }
    Ok(Duration::from_millis(ms))
}

/// Whole milliseconds; what the bounds on durations allow always fits.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub fn text_of<T: fmt::Display>(id: Option<&T>) -> String {
    id.map(ToString::to_string).unwrap_or_default()
}

/// A text that can't be trusted, short enough for a message and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}
