//! The way to the leader: what is said over it, and what it says.

use std::collections::BTreeSet;

use model::{ClusterId, Reporter, TaskId};
use supervisor::Event;
use tokio::sync::mpsc;

use super::{Actor, ActorError, READS_MAX, USAGE_INTERVAL, USAGE_INTERVAL_MAX, output};
use crate::session::{FromLeader, Greeting, SessionEvent, ToLeader};

/// The way to the leader.
pub(super) struct Link {
    pub(super) generation: u64,
    pub(super) sender: mpsc::Sender<ToLeader>,
    /// Before the Welcome nothing is said.
    pub(super) is_welcomed: bool,
    /// What this session was told of usage.
    pub(super) reporter: Reporter,
    /// What the leader was told of tasks that stand still.
    pub(super) frozen: BTreeSet<TaskId>,
}

impl Actor {
    /// Says it if there is a session; else it is said after the next Welcome.
    pub(super) fn say(&mut self, message: ToLeader) {
        let Some(link) = self.link.as_ref().filter(|link| link.is_welcomed) else { return };
        if link.sender.try_send(message).is_err() {
            tracing::warn!("the coordinator does not keep up; the session begins anew");
            self.metrics.session_overruns.inc();
            self.link = None;
        }
    }

    pub(super) fn session_event(&mut self, event: SessionEvent) -> Result<(), ActorError> {
        match event {
            SessionEvent::Opening { generation, link, greeting } => {
                self.link = Some(Link {
                    generation,
                    sender: link,
                    is_welcomed: false,
                    reporter: Reporter::default(),
                    frozen: BTreeSet::new(),
                });
                self.strays.ask(greeting);
                self.greet();
                Ok(())
            }
            SessionEvent::Closed { generation } => {
                if self.is_current(generation) {
                    self.link = None;
                }
                Ok(())
            }
            SessionEvent::Said { generation, message } if self.is_current(generation) => self.said(message),
            // Of a session that is over: a newer one brings all of it again.
            SessionEvent::Said { .. } => Ok(()),
        }
    }

    /// Answers the session that wants to say Hello, as soon as it may.
    pub(super) fn greet(&mut self) {
        if let Some(greeting) = self.strays.due() {
            let cluster_id = self.identity.cluster_id.clone();
            // The session may have ended while it waited.
            let _ = greeting.send(Greeting { cluster_id, tasks: self.supervisor.known() });
        }
    }

    fn is_current(&self, generation: u64) -> bool {
        self.link.as_ref().is_some_and(|link| link.generation == generation)
    }

    fn said(&mut self, message: FromLeader) -> Result<(), ActorError> {
        match message {
            FromLeader::Welcomed { cluster_id, epoch, assignments, unchanged } => {
                self.join_cluster(&cluster_id)?;
                self.usage_interval = USAGE_INTERVAL;
                if let Some(link) = &mut self.link {
                    link.is_welcomed = true;
                }
                tracing::debug!(epoch, "welcome");
                self.metrics.sessions_welcomed.inc();
                self.decide(Event::Welcomed { assignments, unchanged })
            }
            FromLeader::Launch(assignments) => self.decide(Event::Assigned { assignments }),
            FromLeader::Kill { task_id, grace } => {
                self.decide(Event::KillOrdered { task_id, grace: Some(grace) })
            }
            FromLeader::Acknowledge(tasks) => tasks
                .into_iter()
                .try_for_each(|(task_id, sequence)| self.decide(Event::Acknowledged { task_id, sequence })),
            FromLeader::ReadHistory { request, subject, since, step } => {
                let points = self.rounds.history().points(&subject, since, step);
                let result = points.ok_or_else(|| "the agent keeps no history of this".to_owned());
                if let Some(link) = &self.link {
                    // A leader that does not keep up asks again after its own patience.
                    let _ = link.sender.try_send(ToLeader::History { request, result });
                }
                Ok(())
            }
            FromLeader::UsagePace { interval } => {
                self.usage_interval = interval.clamp(USAGE_INTERVAL, USAGE_INTERVAL_MAX);
                Ok(())
            }
            FromLeader::ReadOutput(wish) => {
                let Some(link) = &self.link else { return Ok(()) };
                let reader = output::Reader {
                    requests: self.handle.requests.clone(),
                    executor: self.executor.clone(),
                    link: link.sender.clone(),
                };
                if self.reads.len() >= READS_MAX {
                    reader.refuse(wish.request, "too many readings of output are under way on the agent");
                } else {
                    self.reads.spawn(reader.read(wish));
                }
                Ok(())
            }
            FromLeader::OpenChannel { channel_id, task_id } => {
                let (channels, actor) = (self.channels.clone(), self.handle.requests.clone());
                // How many there may be is the channels' own affair.
                self.talks.spawn(async move { channels.serve(channel_id, task_id, actor).await });
                Ok(())
            }
        }
    }

    fn join_cluster(&mut self, theirs: &str) -> Result<(), ActorError> {
        let theirs = ClusterId::new(theirs).map_err(ActorError::ClusterId)?;
        match &self.identity.cluster_id {
            Some(ours) if *ours == theirs => Ok(()),
            Some(ours) => Err(ActorError::ClusterForeign { ours: ours.clone(), theirs }),
            None => {
                tracing::info!(cluster_id = %theirs, "this agent belongs to the cluster from now on");
                self.identity.cluster_id = Some(theirs);
                self.checkpoint.write_identity(&self.identity).map_err(ActorError::Identity)
            }
        }
    }
}
