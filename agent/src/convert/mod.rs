//! Session messages and checkpoint rows to the model and back; nobody else here knows both.
//!
//! What comes in is checked once: a value that breaks its rule is an error that names the field.
//! What the coordinator shares is in `codec`.

mod assignment;
mod row;

pub use assignment::assignment;
pub use row::{row, to_row};
