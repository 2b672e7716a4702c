//! Work that blocks, away from the loops that must not wait.

use std::io;

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does work that blocks on another thread.
///
/// A runtime of one thread has none to spare, so the work is done at once: a simulated member then does
/// the same at every run of a seed, while another thread would answer at any moment.
pub async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => work(),
        _ => tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?,
    }
}
