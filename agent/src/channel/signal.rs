//! A signal to a task's command.

use model::RefusalCode;
use proto::channel::v1 as wire;

use super::{Failure, Talk};
use crate::execute::chain;

impl Talk<'_> {
    pub(super) async fn send_signal(self, number: u32) -> Result<wire::Ended, Failure> {
        self.check_running()?;
        let number = u8::try_from(number).unwrap_or(0);
        let sent = self.executor.send_signal(&self.task.task_id, number);
        sent.map_err(|error| Failure::new(RefusalCode::ChannelBroken, chain(&error)))?;
        self.say_opened().await?;
        Ok(wire::Ended::default())
    }
}
