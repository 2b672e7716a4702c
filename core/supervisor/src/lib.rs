//! One agent's decisions: from what is assigned and observed to actions.
//!
//! [`Supervisor::handle`] takes an event and the time, changes the task table and answers with the
//! actions that make it true. Never reads a clock, touches the kernel or talks to the leader.
//! Start at [`Supervisor`]; what is stored of a task is [`Row`], what can be done is [`Action`].
//!
//! ## Design
//!
//! Kept at every interleaving of events and restarts, each tested by its letter in `tests::laws`:
//!
//! - **(a) once:** the command of a task is begun at most once. What was being prepared when the agent
//!   stopped was never begun, and is prepared anew.
//! - **(b) recorded first:** every effect and every report follows the record that mentions it, so a
//!   crash leaves a row that points at residue, never residue that nothing points at.
//! - **(c) one end:** a task gets one final state; its statuses count up one by one; at most one more
//!   status follows, the same with `is_released` set.
//! - **(d) nothing left:** when a released task's last actions are done, only its sandbox remains.
//! - **(e) undone:** a launch plan followed by its undo leaves only the record.
//! - **(f) truthful:** an exit status that nobody saw is never FINISHED.
//! - **(g) quiet:** health is told when it changes, and of a running command alone.
//!
//! The price of (a): after the leader has forgotten a task, the same id may come again while the
//! agent still keeps the ended one for its output. It is refused here as DROPPED, with words that say so.

mod action;
mod event;
mod group;
mod health;
mod known;
mod launch;
pub mod limits;
mod now;
mod restore;
mod row;
mod supervisor;
mod verdict;

pub use action::{Action, Confidence};
pub use event::{Assignment, Event};
pub use group::{MemoryEnd, ProcessEnd};
pub use health::{Judge, KillBudget};
pub use known::{Known, KnownTask};
pub use now::{Now, Uptime};
pub use restore::Found;
pub use row::{Kill, KillCause, Phase, ProcessId, Row};
pub use supervisor::Supervisor;
pub use verdict::Verdict;

#[cfg(test)]
mod tests;
