//! Wire and log records to the model and back; nobody else knows both.
//!
//! Every rule about a single value is checked here, once, on the way in; what comes out can't be
//! wrong. An error names the field as the `.proto` file spells it, and the rule that it breaks.
//! `types.rs` holds what all packages share; the other files are one package each.

pub mod agent;
pub mod log;
pub mod operator;
pub mod scheduler;
mod snapshot;
#[cfg(test)]
mod testing;
mod types;

use std::{fmt, str::FromStr, time::Duration};

use model::{IdError, Refusal, RefusalCode, limits};

pub use snapshot::{SnapshotError, decode_snapshot, encode_snapshot};

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
    fn new(field: &str, rule: impl fmt::Display) -> Self {
        Self { field: field.to_owned(), rule: rule.to_string() }
    }

    fn missing(field: &str) -> Self {
        Self::new(field, "is missing")
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::new(RefusalCode::InvalidArgument, invalid.to_string())
    }
}

/// Says where in the message around it a field stands.
trait Within {
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

fn id<T: FromStr<Err = IdError>>(field: &str, text: &str) -> Result<T, Invalid> {
    if text.is_empty() {
        return Err(Invalid::missing(field));
    }
    text.parse().map_err(|error: IdError| {
        Invalid::new(field, format_args!("is no {}: `{}`: {}", error.kind, error.shown, error.why))
    })
}

/// An id that may be absent, which proto3 tells by an empty text.
fn optional_id<T: FromStr<Err = IdError>>(field: &str, text: &str) -> Result<Option<T>, Invalid> {
    if text.is_empty() { Ok(None) } else { id(field, text).map(Some) }
}

fn ids<T: FromStr<Err = IdError>>(field: &str, texts: &[String], max: usize) -> Result<Vec<T>, Invalid> {
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
fn each<W, M>(
    field: &str,
    items: Vec<W>,
    convert: impl Fn(W) -> Result<M, Invalid>,
) -> Result<Vec<M>, Invalid> {
    items.into_iter().enumerate().map(|(place, item)| convert(item).within_item(field, place)).collect()
}

fn required<T>(field: &str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::missing(field))
}

fn at_most(field: &str, count: usize, max: usize) -> Result<(), Invalid> {
    if count > max {
        return Err(Invalid::new(field, format_args!("has {count} items; at most {max} are allowed")));
    }
    Ok(())
}

/// A text for people or other programs: bounded, and without control characters that would fool a terminal.
fn text(field: &str, text: String, max: usize) -> Result<String, Invalid> {
    if text.len() > max {
        return Err(Invalid::new(field, format_args!("has {} bytes; at most {max} are allowed", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new(field, "holds a control character"));
    }
    Ok(text)
}

/// A timeout in milliseconds; longer than a year is cut to a year.
fn timeout(ms: u64) -> Duration {
    Duration::from_millis(ms.min(limits::TIMEOUT_MS_MAX))
}

fn grace(field: &str, ms: u64) -> Result<Duration, Invalid> {
    if ms > limits::KILL_GRACE_MS_MAX {
        return Err(Invalid::new(field, format_args!("of {ms} ms is longer than a day")));
    }
    Ok(Duration::from_millis(ms))
}

/// Whole milliseconds; what the bounds on durations allow always fits.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn text_of<T: fmt::Display>(id: Option<&T>) -> String {
    id.map(ToString::to_string).unwrap_or_default()
}
