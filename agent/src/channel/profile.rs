//! Where a task spends its CPU time: taken for a while, then told as folded stacks.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use model::{RefusalCode, TaskId};
use proto::channel::v1::{self as wire, Stream, frame};
use tokio::task::spawn_blocking;

use super::{Failure, Talk, frames};
use crate::{
    execute::chain,
    profile::{self, Profile, Wish},
};

/// Profiles at a time on one agent: each has a clock on every CPU, and up to 16 MiB of stacks.
const PROFILES_MAX: usize = 4;
/// What the caller may ask for at most, whatever the coordinator let pass.
const DURATION_MAX: Duration = Duration::from_secs(5 * 60);
const FREQUENCY_MAX: u32 = 999;
/// What one frame carries.
const CHUNK_BYTES: usize = 32 * 1024;

/// Which tasks are profiled now.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    running: Mutex<BTreeSet<TaskId>>,
}

/// The right to profile one task; given back when dropped.
struct Turn<'a> {
    profiles: &'a Profiles,
    task: TaskId,
}

impl Profiles {
    fn begin(&self, task: &TaskId) -> Result<Turn<'_>, Failure> {
        let mut running = self.lock();
        let busy = |message| Err(Failure::new(RefusalCode::Busy, message));
        if running.contains(task) {
            return busy(format!("task `{task}` is being profiled already; wait for that to end"));
        }
        if running.len() >= PROFILES_MAX {
            return busy(format!("this agent takes {PROFILES_MAX} profiles already; wait for one to end"));
        }
        running.insert(task.clone());
        Ok(Turn { profiles: self, task: task.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<TaskId>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.profiles.lock().remove(&self.task);
    }
}

impl Talk<'_> {
    pub(super) async fn profile(
        self,
        wish: wire::Profile,
        profiles: &Profiles,
    ) -> Result<wire::Ended, Failure> {
        self.check_running()?;
        let _turn = profiles.begin(&self.task.task_id)?;
        let wire::Profile { duration_ms, frequency } = wish;
        let unable = |why| Failure::new(RefusalCode::ChannelBroken, why);
        let cgroup = self.executor.cgroup(&self.task.attempt).map_err(|error| unable(chain(&error)))?;
        let cgroup = cgroup.ok_or_else(|| unable("the task's cgroup is gone".to_owned()))?;
        let duration = Duration::from_millis(duration_ms).min(DURATION_MAX);
        let wish = Wish { cgroup, duration, frequency: frequency.clamp(1, FREQUENCY_MAX) };
        // Dropped, it ends the gathering, whatever becomes of us.
        let (stop, stopped) = mpsc::channel::<()>();
        let mut gathering = spawn_blocking(move || profile::gather(wish, &stopped));
        self.say_opened().await?;
        let task = self.executor.process(&self.task.task_id);
        let Self { incoming, outgoing, .. } = self;
        let ended = async {
            match &task {
                // Where its end can't be awaited, the time ends the profile.
                Some(process) if process.ended().await.is_ok() => {}
                _ => std::future::pending().await,
            }
        };
        tokio::pin!(ended);
        let mut stop = Some(stop);
        let gathered = loop {
            tokio::select! {
                gathered = &mut gathering => break gathered,
                () = &mut ended, if stop.is_some() => stop = None,
                () = outgoing.closed() => return Err(Failure::CallerGone),
                frame = incoming.message() => match frame {
                    Ok(Some(wire::Frame { frame: Some(frame::Frame::Finish(wire::Finish {})) })) => stop = None,
                    Ok(Some(_other)) => {}
                    Ok(None) | Err(_) => return Err(Failure::CallerGone),
                },
            }
        };
        let profile = match gathered {
            Ok(Ok(profile)) => profile,
            Ok(Err(error)) => return Err(unable(chain(&error))),
            Err(error) => return Err(Failure::new(RefusalCode::Internal, chain(&error))),
        };
        let Profile { samples, lost, .. } = profile;
        let mut waiting = Vec::new();
        let say = async |data: Vec<u8>| {
            let frame = frames::framed(frames::data(Stream::Stdout, data));
            outgoing.send(frame).await.map_err(|_| Failure::CallerGone)
        };
        for line in profile.folded() {
            waiting.extend_from_slice(line.as_bytes());
            // One line may be longer than a frame.
            while waiting.len() > CHUNK_BYTES {
                let rest = waiting.split_off(CHUNK_BYTES);
                say(std::mem::replace(&mut waiting, rest)).await?;
            }
        }
        say(waiting).await?;
        Ok(wire::Ended { exit: None, sampled: Some(wire::Sampled { samples, lost }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_profiled_once_at_a_time_and_an_agent_takes_few() {
        let profiles = Profiles::default();
        let id = |number: usize| TaskId::new(&format!("t{number}")).unwrap();
        let turns: Vec<_> =
            (0..PROFILES_MAX).map(|number| profiles.begin(&id(number)).ok().unwrap()).collect();
        let why = |task: usize| match profiles.begin(&id(task)) {
            Err(Failure::Refused { code: RefusalCode::Busy, message }) => message,
            _ => panic!("begun"),
        };
        assert!(why(1).contains("is being profiled already"));
        assert!(why(9).contains("4 profiles already"));
        drop(turns);
        assert!(profiles.begin(&id(9)).is_ok());
    }
}
