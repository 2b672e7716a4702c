//! What the agreed commands change: the seam to the state.

/// The state that every member builds from the same commands.
pub trait Machine: Send + 'static {
    /// Applies one command. A no is an answer; an error means that this build can't read what the others
    /// agreed on, and stops the member, because skipping it would make another state than theirs.
    fn apply(&mut self, index: u64, term: u64, command: &[u8]) -> Result<Vec<u8>, MachineError>;

    /// Called after each batch was applied, before its answers go out: publish the new state to
    /// readers here, once per batch.
    fn published(&mut self, last_applied: u64);

    /// A cheap clone of the state as a closure that encodes it on another thread.
    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send>;

    /// Replaces the state by one that [`Machine::snapshot`] encoded, here or on another member.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError>;
}

/// Why a snapshot or a command can't be used: written by a newer release, or damaged.
#[derive(Debug, thiserror::Error)]
#[error("can't read {what} of {bytes} bytes")]
pub struct MachineError {
    pub what: &'static str,
    pub bytes: usize,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}
