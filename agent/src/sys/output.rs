//! Task output: files that grow at the end and are freed at the head.

/// A piece of a task's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSlice {
    /// Where `data` really begins: later than asked for if the head was freed.
    pub offset: u64,
    pub data: Vec<u8>,
    /// Where the file ends now.
    pub end: u64,
}
