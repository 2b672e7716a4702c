//! Wire messages and checkpoint rows to model and back; nobody else here knows both.
//!
//! What comes in is checked once: a value that breaks its rule is an error that names the field.
//! `wire` holds what session and checkpoint share, `row` what only the checkpoint stores.

mod row;
mod wire;

pub use row::{row_from_wire, row_to_wire};
pub use wire::{assignment_from_wire, resources_to_wire, state_to_wire, status_to_wire, usage_to_wire};

/// Why a message can't be understood.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    #[error("{field} is absent")]
    Absent { field: &'static str },
    #[error("{field} has the unknown value {value}")]
    Unknown { field: &'static str, value: i64 },
    #[error("{field} is not valid")]
    Id { field: &'static str, source: model::IdError },
    #[error("the resources are not valid")]
    Resources { source: model::ResourcesError },
    #[error("the spec is not valid")]
    Spec { source: model::SpecError },
}
