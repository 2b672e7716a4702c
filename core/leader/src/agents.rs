//! Sessions of agents: registration, orders as levels, statuses in batches, silence.
//!
//! The newest session of an agent wins. What an agent was told is remembered per session; whatever the
//! state holds beyond it is owed, and a new session begins with all of it. So no order is ever lost.

use std::collections::{BTreeMap, BTreeSet};

use cluster::{Answer, Availability, ClusterState, Command, Task, kept::kept};
use model::{
    AgentId, Digests, Duration, KillOrder, Refusal, RefusalCode, TaskId, TaskStatus, Timestamp, limits,
};

use crate::{
    config::{
        ASSIGNMENT_BYTES, LAUNCH_BYTES_MAX, RETRY_AFTER, STATUSES_WAITING_MAX, UNREACHABLE_IN_WINDOW_MIN,
    },
    machine::{Effect, Leader},
    messages::{Assignment, FromAgent, Hello, Known, SessionId, ToAgent},
    offers::Ending,
    proposals::{CallId, ProposeError, Purpose},
    resync::{self, Asked},
    usage::Reports,
};

/// One opened stream of an agent.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) agent: AgentId,
    hostname: String,
    boot_id: String,
    /// Absent until the registration is committed.
    pub(crate) epoch: Option<u64>,
    heard_at: Timestamp,
    heartbeat_at: Timestamp,
    /// What the agent was told of each of its tasks.
    told: BTreeMap<TaskId, Option<KillOrder>>,
    /// Statuses that wait for the log, in the order in which they came.
    inbox: Vec<TaskStatus>,
    /// One batch at a time is in flight, so that their order stays.
    is_recording: bool,
    retry_at: Option<Timestamp>,
    reports: Reports,
    /// Its tasks that stand still, as it has told.
    frozen: BTreeSet<TaskId>,
    /// Of its hello, until the Welcome.
    digests: Option<Digests>,
    /// Present while it is to tell of some of its tasks.
    asked: Option<Asked>,
}

/// Every open session.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    next: u64,
    by_id: BTreeMap<SessionId, Session>,
    by_agent: BTreeMap<AgentId, SessionId>,
    /// Those with statuses to record.
    full: BTreeSet<SessionId>,
}

impl Sessions {
    /// Ids differ from those of every other term of this process.
    pub(crate) fn new(term: u64) -> Self {
        Self { next: term << 32, by_id: BTreeMap::new(), by_agent: BTreeMap::new(), full: BTreeSet::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn ids(&self) -> Vec<SessionId> {
        self.by_id.keys().copied().collect()
    }

    pub(crate) fn of_agent(&self, agent: &AgentId) -> Option<(SessionId, &Session)> {
        let id = self.by_agent.get(agent)?;
        self.by_id.get(id).map(|session| (*id, session))
    }

    /// Agents whose registration is committed, with session and epoch.
    pub(crate) fn registered(&self) -> impl Iterator<Item = (&AgentId, SessionId, u64)> {
        self.by_agent.iter().filter_map(|(agent, id)| {
            let session = self.by_id.get(id)?;
            Some((agent, *id, session.epoch?))
        })
    }

    /// The session of an agent whose registration is committed.
    pub(crate) fn registered_of(&self, agent: &AgentId) -> Option<(SessionId, u64)> {
        let (id, session) = self.of_agent(agent)?;
        Some((id, session.epoch?))
    }

    pub(crate) fn reports(&self, session: SessionId) -> Option<&Reports> {
        self.by_id.get(&session).map(|session| &session.reports)
    }

    pub(crate) fn reports_mut(&mut self, session: SessionId) -> Option<&mut Reports> {
        self.by_id.get_mut(&session).map(|session| &mut session.reports)
    }

    /// Of sessions whose agent is registered: before, they can't be told anything.
    pub(crate) fn all_reports_mut(&mut self) -> impl Iterator<Item = (SessionId, &mut Reports)> {
        self.by_id
            .iter_mut()
            .filter(|(_, session)| session.epoch.is_some())
            .map(|(id, session)| (*id, &mut session.reports))
    }

    /// Whether a task of this agent stands still; `None` while nobody can be asked.
    pub(crate) fn is_frozen(&self, agent: &AgentId, task: &TaskId) -> Option<bool> {
        let (_, session) = self.of_agent(agent)?;
        session.epoch?;
        Some(session.frozen.contains(task))
    }

    pub(crate) fn ask(&mut self, session: SessionId, asked: Asked) {
        if let Some(session) = self.by_id.get_mut(&session) {
            session.asked = Some(asked);
        }
    }

    /// What an agent was asked for, and which; only once.
    pub(crate) fn take_asked(&mut self, session: SessionId) -> Option<(AgentId, Asked)> {
        let session = self.by_id.get_mut(&session)?;
        Some((session.agent.clone(), session.asked.take()?))
    }

    pub(crate) fn told_tasks(&self) -> Vec<TaskId> {
        self.by_id.values().flat_map(|session| session.told.keys().cloned()).collect()
    }

    pub(crate) fn next_retry(&self) -> Option<Timestamp> {
        self.full.iter().filter_map(|id| self.by_id.get(id)?.retry_at).min()
    }
}

impl Leader {
    /// Opens a session and registers the agent.
    ///
    /// Refuses an agent of another cluster (ClusterForeign, for good), one that is gone (AgentGone, for good), and a second machine that uses the
    /// id of one that still speaks (AgentIdTaken).
    pub(crate) fn attach(&mut self, call: CallId, hello: Hello, state: &ClusterState, now: Timestamp) {
        let session = SessionId(self.sessions.next);
        self.sessions.next += 1;
        self.effects.push(Effect::OpenSession { call, session });
        let Hello { agent, cluster, facts, tasks } = hello;
        if let Err((refusal, is_final)) = self.judge_hello(&agent, cluster.as_ref(), &facts, state, now) {
            self.effects.push(Effect::ToAgent { session, message: ToAgent::Refused { refusal, is_final } });
            self.effects.push(Effect::CloseSession { session });
            return;
        }
        if let Some((older, _)) = self.sessions.of_agent(&agent) {
            let refusal = Refusal::new(
                RefusalCode::EpochStale,
                format!("agent `{agent}` opened a newer session, so this one ends"),
            );
            self.end_session(older, Some(ToAgent::Refused { refusal, is_final: false }));
        }
        self.liveness.heard_from(&agent, now);
        self.sessions.by_agent.insert(agent.clone(), session);
        self.sessions.by_id.insert(
            session,
            Session {
                agent: agent.clone(),
                hostname: facts.hostname.clone(),
                boot_id: facts.boot_id.clone(),
                epoch: None,
                heard_at: now,
                heartbeat_at: now + self.config.agent_heartbeat,
                told: BTreeMap::new(),
                inbox: Vec::new(),
                is_recording: false,
                retry_at: None,
                reports: Reports::default(),
                frozen: BTreeSet::new(),
                digests: match &tasks {
                    Known::All(_) => None,
                    Known::Digests(digests) => Some(digests.clone()),
                },
                asked: None,
            },
        );
        match tasks {
            Known::All(tasks) => {
                self.counts.known_tasks_told += tasks.len() as u64;
                let command = Command::RegisterAgent { agent, facts, tasks };
                self.propose(Purpose::RegisterAgent { session }, command, now);
            }
            Known::Digests(digests) => self.compare_known(session, agent, facts, digests, state, now),
        }
    }

    fn judge_hello(
        &self,
        agent: &AgentId,
        cluster: Option<&model::ClusterId>,
        facts: &cluster::AgentFacts,
        state: &ClusterState,
        now: Timestamp,
    ) -> Result<(), (Refusal, bool)> {
        let Some(ours) = state.cluster() else {
            let refusal = Refusal::new(RefusalCode::Busy, "the cluster is just being made; try again");
            return Err((refusal, false));
        };
        if state.agent_gone_at(agent).is_some() {
            return Err((gone(agent), true));
        }
        if let Some(theirs) = cluster
            && theirs != ours
        {
            let message = format!(
                "can't attach agent `{agent}`: it belongs to cluster `{theirs}`, and this is `{ours}`; give it \
                 the right coordinator, or an empty data directory"
            );
            return Err((Refusal::new(RefusalCode::ClusterForeign, message), true));
        }
        // A host that rebooted also has a new boot id, but its old session has fallen silent.
        if let Some((_, session)) = self.sessions.of_agent(agent)
            && session.boot_id != facts.boot_id
            && now.since(session.heard_at) < self.config.agent_heartbeat.saturating_mul(2)
        {
            let message = format!(
                "can't attach agent `{agent}` from host `{}`: an agent with this id is attached from host `{}` \
                 now; if its data directory was copied, give the copy an empty one",
                facts.hostname, session.hostname
            );
            return Err((Refusal::new(RefusalCode::AgentIdTaken, message), false));
        }
        Ok(())
    }

    pub(crate) fn agent_registered(
        &mut self,
        session: SessionId,
        answer: Result<Answer, Refusal>,
        state: &ClusterState,
    ) {
        let epoch = match answer {
            Ok(Answer::AgentRegistered { epoch }) => epoch,
            Ok(other) => {
                let refusal = Refusal::new(
                    RefusalCode::Internal,
                    format!("the log gave a registration an answer of the wrong kind: {other:?}"),
                );
                return self.end_session(session, Some(ToAgent::Refused { refusal, is_final: false }));
            }
            Err(refusal) => {
                let is_final = match refusal.code {
                    RefusalCode::InvalidArgument | RefusalCode::ClusterForeign | RefusalCode::AgentGone => {
                        true
                    }
                    _other => false,
                };
                return self.end_session(session, Some(ToAgent::Refused { refusal, is_final }));
            }
        };
        let Some(cluster) = state.cluster().cloned() else { return };
        let Some(entry) = self.sessions.by_id.get_mut(&session) else { return };
        entry.epoch = Some(epoch);
        let agent = entry.agent.clone();
        let tasks = state.agent(&agent).map(|agent| agent.tasks.clone()).unwrap_or_default();
        let assigned: Vec<_> = tasks.iter().filter_map(|task| Some((task, state.task(task)?))).collect();
        entry.told = assigned.iter().map(|(id, task)| ((*id).clone(), task.kill)).collect();
        let digests = entry.digests.take();
        let unchanged = digests.as_ref().map(|digests| resync::unchanged(digests, state, &agent));
        let unchanged = unchanged.unwrap_or_default();
        // Digests say nothing of orders to end.
        let is_known = |id: &TaskId, task: &Task| {
            let bucket = digests.as_ref().map(|digests| digests.bucket_of(id));
            task.kill.is_none() && bucket.is_some_and(|bucket| unchanged.contains(&bucket))
        };
        let assigned = assigned.into_iter().filter(|(id, task)| !is_known(id, task));
        let assignments = assigned.map(|(_, task)| assignment(task)).collect();
        if !entry.inbox.is_empty() {
            self.sessions.full.insert(session);
        }
        let message = ToAgent::Welcome {
            cluster,
            epoch,
            term: self.term,
            assignments,
            unchanged,
            heartbeat_interval: self.config.agent_heartbeat,
        };
        self.effects.push(Effect::ToAgent { session, message });
        self.touched.agents.insert(agent);
        self.cycle.touch();
    }

    pub(crate) fn agent_said(&mut self, session: SessionId, message: FromAgent, now: Timestamp) {
        let Some(entry) = self.sessions.by_id.get_mut(&session) else { return };
        entry.heard_at = now;
        self.liveness.heard_from(&entry.agent, now);
        match message {
            FromAgent::Heartbeat => {}
            FromAgent::Updates(statuses) => {
                for mut status in statuses {
                    status.agent_id = Some(entry.agent.clone());
                    entry.inbox.push(status);
                }
                if entry.inbox.len() > STATUSES_WAITING_MAX {
                    let refusal = Refusal::new(
                        RefusalCode::Busy,
                        format!(
                            "more than {STATUSES_WAITING_MAX} statuses of this agent wait for the log; attach \
                             again and send what is not acknowledged"
                        ),
                    );
                    return self.end_session(session, Some(ToAgent::Refused { refusal, is_final: false }));
                }
                if entry.epoch.is_some() {
                    self.sessions.full.insert(session);
                }
            }
            FromAgent::Usage(report) => self.usage_reported(session, report),
            FromAgent::History { request, result } => self.history_answered(session, request, result),
            FromAgent::Output { request, result } => self.read_answered(session, request, result),
            FromAgent::Frozen(tasks) => entry.frozen = tasks.into_iter().collect(),
            FromAgent::Known(tasks) => self.known_told(session, tasks, now),
        }
    }

    /// Ends a session, with a last word if there is one. The agent is not lost yet.
    pub(crate) fn end_session(&mut self, session: SessionId, last: Option<ToAgent>) {
        let Some(entry) = self.sessions.by_id.remove(&session) else { return };
        self.sessions.full.remove(&session);
        if self.sessions.by_agent.get(&entry.agent) == Some(&session) {
            self.sessions.by_agent.remove(&entry.agent);
        }
        if let Some(message) = last {
            self.effects.push(Effect::ToAgent { session, message });
        }
        self.effects.push(Effect::CloseSession { session });
        self.reads_lost(session);
        self.histories_lost(session);
        // It will register under a new epoch, in which these offers could not be used anyway.
        let offers = self.offers.idle_of_agent(&entry.agent);
        self.rescind_counted(offers, "the agent's session ended");
        self.cycle.touch();
    }

    fn rescind_counted(&mut self, offers: Vec<model::OfferId>, reason: &'static str) {
        self.counts.offers_rescinded += offers.len() as u64;
        self.rescind(offers, Ending::Rescinded(reason), reason);
    }

    /// Sends each agent what it lacks, and ends sessions that the log has overtaken.
    pub(crate) fn settle_agents(&mut self, state: &ClusterState, _now: Timestamp) {
        for agent in std::mem::take(&mut self.touched.agents) {
            if state.agent(&agent).is_some_and(|record| record.availability == Availability::Deactivated) {
                let offers = self.offers.idle_of_agent(&agent);
                self.rescind_counted(offers, "an operator took the agent out of use");
            }
            if let Some((session, _)) = self.sessions.of_agent(&agent)
                && state.agent_gone_at(&agent).is_some()
            {
                let refusal = gone(&agent);
                self.end_session(session, Some(ToAgent::Refused { refusal, is_final: true }));
                continue;
            }
            let Some((session, epoch)) = self.sessions.registered_of(&agent) else { continue };
            let is_current =
                state.agent(&agent).is_some_and(|record| record.is_reachable && record.epoch == epoch);
            if !is_current {
                let refusal = Refusal::new(
                    RefusalCode::EpochStale,
                    format!("epoch {epoch} of agent `{agent}` is over; attach again for a new one"),
                );
                self.end_session(session, Some(ToAgent::Refused { refusal, is_final: false }));
                continue;
            }
        }
        let mut launches: BTreeMap<SessionId, Vec<Assignment>> = BTreeMap::new();
        let mut kills = Vec::new();
        for id in std::mem::take(&mut self.touched.tasks) {
            self.reads.task_changed(&id);
            let Some(task) = state.task(&id) else { continue };
            let Some(agent) = &task.agent else { continue };
            let Some((session, _)) = self.sessions.registered_of(agent) else { continue };
            let Some(entry) = self.sessions.by_id.get_mut(&session) else { continue };
            if task.is_over() {
                entry.told.remove(&id);
                continue;
            }
            match entry.told.get(&id) {
                None => {
                    entry.told.insert(id, task.kill);
                    launches.entry(session).or_default().push(assignment(task));
                }
                Some(told) if *told != task.kill => {
                    entry.told.insert(id.clone(), task.kill);
                    if let Some(KillOrder { grace }) = task.kill {
                        kills.push((session, id, grace));
                    }
                }
                Some(_) => {}
            }
        }
        for (session, assignments) in launches {
            for message in in_messages(assignments) {
                self.effects.push(Effect::ToAgent { session, message });
            }
        }
        for (session, task, grace) in kills {
            self.effects.push(Effect::ToAgent { session, message: ToAgent::Kill { task, grace } });
        }
    }

    /// Proposes one batch for each agent that has statuses and none in flight.
    pub(crate) fn record_statuses(&mut self, state: &ClusterState, now: Timestamp) {
        for session in self.sessions.full.clone() {
            let Some(entry) = self.sessions.by_id.get_mut(&session) else { continue };
            let Some(epoch) = entry.epoch else { continue };
            if entry.is_recording || entry.retry_at.is_some_and(|at| at > now) {
                continue;
            }
            let count = entry.inbox.len().min(limits::STATUSES_PER_ENTRY_MAX);
            let statuses: Vec<_> =
                entry.inbox.drain(..count).map(|status| kept(status, state.version())).collect();
            if entry.inbox.is_empty() {
                self.sessions.full.remove(&session);
            }
            if statuses.is_empty() {
                continue;
            }
            entry.is_recording = true;
            entry.retry_at = None;
            let agent = entry.agent.clone();
            let command = Command::RecordStatuses { agent, epoch, statuses: statuses.clone() };
            self.propose(Purpose::Record { session, statuses }, command, now);
        }
    }

    pub(crate) fn recorded(
        &mut self,
        session: SessionId,
        statuses: Vec<TaskStatus>,
        result: Result<Result<Answer, Refusal>, ProposeError>,
        now: Timestamp,
    ) {
        let Some(entry) = self.sessions.by_id.get_mut(&session) else { return };
        entry.is_recording = false;
        match result {
            Ok(Ok(Answer::Recorded(tasks))) => {
                self.counts.statuses_recorded += statuses.len() as u64;
                self.effects.push(Effect::ToAgent { session, message: ToAgent::Acknowledge(tasks) });
            }
            Ok(Ok(other)) => {
                let refusal = Refusal::new(
                    RefusalCode::Internal,
                    format!("the log gave statuses an answer of the wrong kind: {other:?}"),
                );
                self.end_session(session, Some(ToAgent::Refused { refusal, is_final: false }));
            }
            Ok(Err(refusal)) => {
                self.end_session(session, Some(ToAgent::Refused { refusal, is_final: false }));
            }
            // Recording twice does no harm, so what may have been recorded is simply tried again.
            Err(ProposeError::Busy | ProposeError::Unknown | ProposeError::NotLeader) => {
                entry.inbox.splice(0..0, statuses);
                entry.retry_at = Some(now + RETRY_AFTER);
                self.sessions.full.insert(session);
            }
            Err(error @ ProposeError::TooLarge { .. }) => {
                let refusal = error.refusal();
                self.end_session(session, Some(ToAgent::Refused { refusal, is_final: false }));
            }
        }
    }

    pub(crate) fn mark_silent_agents(&mut self, state: &ClusterState, now: Timestamp) {
        if now < self.began_at + self.config.agent_timeout {
            return;
        }
        let max = self.unreachable_max(state);
        for agent in self.liveness.overdue(now, self.config.agent_timeout, max) {
            let Some(record) = state.agent(&agent).filter(|record| record.is_reachable) else {
                self.liveness.forget(&agent);
                continue;
            };
            self.liveness.marking(&agent);
            let command = Command::MarkAgentUnreachable { agent: agent.clone(), epoch: record.epoch };
            self.propose(Purpose::MarkUnreachable { agent }, command, now);
        }
    }

    /// How many agents may be marked unreachable within a window.
    fn unreachable_max(&self, state: &ClusterState) -> usize {
        let percent = usize::try_from(self.config.agents_unreachable_percent_max).unwrap_or(usize::MAX);
        (state.agents().len().saturating_mul(percent) / 100).max(UNREACHABLE_IN_WINDOW_MIN)
    }

    /// Marks silent agents beyond the bound, because an operator knows that they don't answer.
    ///
    /// Refuses agents that nobody knows (AgentUnknown, AgentGone) or that have spoken lately (InvalidArgument), and
    /// marks none then. Those that are marked already are left out of the answer.
    pub(crate) fn confirm_unreachable(
        &mut self,
        named: Vec<AgentId>,
        state: &ClusterState,
        now: Timestamp,
    ) -> Result<Vec<AgentId>, Refusal> {
        let timeout = self.config.agent_timeout;
        let is_silent = |agent: &AgentId| self.liveness.is_silent(agent, now, timeout);
        for agent in &named {
            let refuse = |code, why: &str| {
                Err(Refusal::new(code, format!("can't mark agent `{agent}` unreachable: {why}")))
            };
            match state.agent(agent) {
                None if state.agent_gone_at(agent).is_some() => return Err(gone(agent)),
                None => return refuse(RefusalCode::AgentUnknown, "no agent has this id"),
                Some(record) if record.is_reachable && !is_silent(agent) => {
                    let why = "it has spoken lately; deactivate it if it shall get no more tasks";
                    return refuse(RefusalCode::InvalidArgument, why);
                }
                Some(_) => {}
            }
        }
        let named: BTreeSet<AgentId> = named.into_iter().collect();
        let wished = |agent: &AgentId| named.is_empty() || named.contains(agent);
        let silent = self.liveness.silent(now, timeout);
        let confirmed: Vec<AgentId> = silent.into_iter().filter(|agent| wished(agent)).collect();
        for agent in &confirmed {
            self.liveness.confirm(agent);
        }
        self.housekeeping_at = now;
        Ok(confirmed)
    }

    /// Agents that are silent for too long and not marked unreachable yet, with how long.
    pub fn silent_agents(&self, now: Timestamp) -> BTreeMap<AgentId, Duration> {
        let silent = self.liveness.silent(now, self.config.agent_timeout);
        let silence = |agent: AgentId| Some((agent.clone(), self.liveness.silence(&agent, now)?));
        silent.into_iter().filter_map(silence).collect()
    }

    /// How many silent agents the bound kept from being marked unreachable at the last look.
    pub fn agents_held_back(&self) -> usize {
        self.liveness.held_back()
    }

    pub(crate) fn heartbeat_agents(&mut self, now: Timestamp) {
        let interval = self.config.agent_heartbeat;
        for (session, entry) in &mut self.sessions.by_id {
            if entry.epoch.is_some() && entry.heartbeat_at <= now {
                entry.heartbeat_at = now + interval;
                self.effects.push(Effect::ToAgent { session: *session, message: ToAgent::Heartbeat });
            }
        }
    }

    /// How long an agent has said nothing.
    pub fn agent_silence(&self, agent: &AgentId, now: Timestamp) -> Option<Duration> {
        self.liveness.silence(agent, now)
    }
}

fn gone(agent: &AgentId) -> Refusal {
    Refusal::new(
        RefusalCode::AgentGone,
        format!(
            "agent `{agent}` is gone, as an operator said: its tasks end, and its id is never used again; to use the \
             host again, give its agent an empty data directory"
        ),
    )
}

/// Splits assignments so that no message is much larger than [`LAUNCH_BYTES_MAX`].
fn in_messages(assignments: Vec<Assignment>) -> Vec<ToAgent> {
    let mut messages = Vec::new();
    let (mut part, mut bytes) = (Vec::new(), 0);
    for assignment in assignments {
        let spec = &assignment.spec;
        let command: usize = spec.arguments().map(String::len).sum();
        let env: usize = spec.variables().map(|(name, value)| name.len() + value.len()).sum();
        bytes += ASSIGNMENT_BYTES + command + env;
        part.push(assignment);
        if bytes >= LAUNCH_BYTES_MAX {
            messages.push(ToAgent::Launch(std::mem::take(&mut part)));
            bytes = 0;
        }
    }
    if !part.is_empty() {
        messages.push(ToAgent::Launch(part));
    }
    messages
}

fn assignment(task: &Task) -> Assignment {
    Assignment {
        framework: task.framework.clone(),
        spec: task.spec.clone(),
        kill: task.kill,
        recorded_sequence: task.recorded_sequence,
    }
}
