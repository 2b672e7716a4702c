//! Stopping a task where it stands, and letting it go on.

use model::RefusalCode;
use proto::channel::v1 as wire;
use tokio::task::spawn_blocking;

use super::{Failure, Talk};
use crate::{actor::Request as Question, execute::chain};

impl Talk<'_> {
    pub(super) async fn freeze(self, is_frozen: bool) -> Result<wire::Ended, Failure> {
        self.check_running()?;
        let (executor, id, attempt) =
            (self.executor.clone(), self.task.task_id.clone(), self.task.attempt.clone());
        let done = spawn_blocking(move || executor.set_frozen(&id, &attempt, is_frozen)).await;
        let why = match &done {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(chain(error)),
            Err(error) => Some(chain(error)),
        };
        if let Some(why) = why {
            return Err(Failure::new(RefusalCode::ChannelBroken, why));
        }
        // Where the actor has too much to do, its next round tells the leader.
        let _ = self.actor.try_send(Question::LookFrozen);
        self.say_opened().await?;
        Ok(wire::Ended::default())
    }
}
