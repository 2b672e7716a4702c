//! The task table and how every event changes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::{
    AgentId, Duration, Exit, Health, Kind, Reason, TaskId, TaskSpec, TaskState, TaskStatus, Timestamp, Usage,
};

use crate::{
    Action, Assignment, Event, Judge, Kill, KillBudget, KillCause, KnownTask, Now, Phase, ProcessEnd,
    ProcessId, Row, Uptime, Verdict, limits,
};

/// The tasks of one agent and what is to be done about them.
#[derive(Debug, Clone)]
pub struct Supervisor {
    agent_id: AgentId,
    pub(crate) entries: BTreeMap<TaskId, Entry>,
    /// Tasks whose record can't be read; they are never launched, and told as gone once the leader asks.
    pub(crate) damaged: BTreeSet<TaskId>,
    /// Index over `entries`: when each wants to be looked at.
    timers: BTreeSet<(Uptime, TaskId)>,
    /// Index over `entries`: ended and acknowledged, by the time of the end.
    pub(crate) ended: BTreeSet<(Timestamp, TaskId)>,
    pub(crate) is_ending: bool,
    kill_budget: KillBudget,
}

/// A row and what needs not survive the agent.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) row: Row,
    /// When its cgroup was last killed.
    pub(crate) killed_at: Option<Uptime>,
    /// Figures of the moment in which the kernel ran out of memory for it.
    oom: Option<Usage>,
    /// What was told of processes of its group that failed.
    pub(crate) failures: String,
    /// Present: its spec has a health check.
    judge: Option<Judge>,
    /// Ports that it uses and has not declared, as far as this start of the agent knows.
    ports: Vec<String>,
    /// Whether this start of the agent holds its process, or is still to hear of it.
    pub(crate) is_in_hand: bool,
    /// Its launch goes on when the leader assigns it again: its secrets are in no record.
    pub(crate) awaits_secrets: bool,
    /// As it stands in the index of timers.
    timer: Option<Uptime>,
    /// As it stands in the index of ended tasks.
    ended: Option<Timestamp>,
}

impl Entry {
    pub(crate) fn new(row: Row) -> Self {
        let has_check = row.spec.health_check.is_some();
        let judge = has_check.then(|| Judge::new(row.health().unwrap_or(Health::Unknown)));
        Self {
            row,
            killed_at: None,
            oom: None,
            failures: String::new(),
            judge,
            ports: Vec::new(),
            is_in_hand: true,
            awaits_secrets: false,
            timer: None,
            ended: None,
        }
    }

    /// Whether it is to be asked how it is.
    pub(crate) fn is_checked(&self) -> bool {
        let is_running = matches!(self.row.phase, Phase::Running { .. });
        is_running && self.row.kill.is_none() && self.judge.is_some()
    }

    /// When time alone asks for an action.
    fn deadline(&self) -> Option<Uptime> {
        let kill_again = self.killed_at.map(|at| at + limits::KILL_AGAIN_AFTER);
        match &self.row.phase {
            // The end of the sandbox of an ended one is in an index of its own.
            Phase::Preparing | Phase::Releasing { .. } | Phase::Ended { .. } | Phase::Removing => None,
            Phase::Running { .. } => kill_again
                .or(self.row.kill.map(|kill| kill.deadline))
                .or_else(|| self.row.run_time_end().filter(|_| self.is_in_hand)),
            Phase::Ending { since, .. } => {
                let release = *since + limits::RELEASE_WAIT;
                Some(kill_again.map_or(release, |again| again.min(release)))
            }
            Phase::Lingering { since, .. } => Some(kill_again.unwrap_or(*since)),
        }
    }

    fn ended_at(&self) -> Option<Timestamp> {
        match self.row.phase {
            Phase::Ended { at } if self.row.is_acknowledged() => Some(at),
            Phase::Ended { .. }
            | Phase::Preparing
            | Phase::Releasing { .. }
            | Phase::Running { .. }
            | Phase::Ending { .. }
            | Phase::Lingering { .. }
            | Phase::Removing => None,
        }
    }
}

impl Supervisor {
    /// One without tasks; see [`Supervisor::restore`] for one with a past.
    pub fn new(agent_id: AgentId) -> Self {
        Self {
            agent_id,
            entries: BTreeMap::new(),
            damaged: BTreeSet::new(),
            timers: BTreeSet::new(),
            ended: BTreeSet::new(),
            is_ending: false,
            kill_budget: KillBudget::default(),
        }
    }

    /// How many unhealthy tasks may be killed.
    pub fn with_kill_budget(self, kill_budget: KillBudget) -> Self {
        Self { kill_budget, ..self }
    }

    /// Changes the table as the event asks, and says what has to be done now, in order.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Welcomed { assignments, unchanged } => {
                self.welcomed(assignments, &unchanged, now, &mut actions);
            }
            Event::Assigned { assignments } => {
                for assignment in assignments {
                    self.assigned(assignment, now, &mut actions);
                }
            }
            Event::KillOrdered { task_id, grace } => {
                self.order_kill(&task_id, KillCause::Ordered, grace, now, &mut actions);
            }
            Event::Acknowledged { task_id, sequence } => {
                self.acknowledged(&task_id, sequence, &mut actions);
            }
            Event::Prepared { task_id, process } => self.prepared(&task_id, process, now, &mut actions),
            Event::LaunchFailed { task_id, reason, message } => {
                self.launch_failed(&task_id, reason, message, now, &mut actions);
            }
            Event::Fetched { task_id } => self.fetched(&task_id, now, &mut actions),
            Event::FetchFailed { task_id, message } => {
                self.fetch_failed(&task_id, message, now, &mut actions);
            }
            Event::Launched { task_id } => self.launched(&task_id, now, &mut actions),
            Event::NeverBegun { task_id } => {
                if let Some(Phase::Releasing { process }) = self.row(&task_id).map(|row| row.phase.clone()) {
                    actions.push(Action::UnregisterProcess { task_id: task_id.clone(), process });
                    self.begin_anew(&task_id, now, &mut actions);
                }
            }
            Event::ExecFailed { task_id, message } => {
                self.exec_failed(&task_id, Reason::CommandNotExecutable, message, now, &mut actions);
            }
            Event::Exited { task_id, exit, usage, processes } => {
                self.exited(&task_id, exit, usage, &processes, now, &mut actions);
            }
            Event::ProcessesEnded { task_id, processes } => {
                self.processes_ended(&task_id, &processes, now, &mut actions);
            }
            Event::OutOfMemory { task_id, usage } => {
                if let Some(entry) = self.entries.get_mut(&task_id) {
                    entry.oom = Some(usage);
                }
            }
            Event::DiskOutgrown { task_id } => {
                // At once, as for memory: in its grace it could fill the host's disk.
                self.order_kill(&task_id, KillCause::DiskLimit, Some(Duration::ZERO), now, &mut actions);
            }
            Event::PortUsed { task_id, port } => self.port_used(&task_id, port, now, &mut actions),
            Event::Probed { task_id, failure } => {
                self.probed(&task_id, failure.as_deref(), now, &mut actions);
            }
            Event::Emptied { task_id, usage } => self.emptied(&task_id, usage, now, &mut actions),
            Event::SandboxRemoved { task_id } => {
                if self.entries.get(&task_id).is_some_and(|entry| entry.row.phase == Phase::Removing) {
                    self.entries.remove(&task_id);
                    actions.push(Action::Forget { task_id });
                }
            }
            Event::DiskShort => self.collect_oldest(&mut actions),
            Event::EndAll => {
                self.is_ending = true;
                for task_id in self.live() {
                    self.order_kill(&task_id, KillCause::AgentEnds, None, now, &mut actions);
                }
            }
            Event::Tick => self.tick(now, &mut actions),
        }
        self.collect_ended(now, &mut actions);
        actions
    }

    /// How long it is until the next [`Event::Tick`] is due.
    pub fn next_wake(&self, now: Now) -> Option<Duration> {
        let timer = self.timers.first().map(|(at, _)| at.since(now.uptime));
        let ended = self.ended.first().map(|(at, _)| (*at + limits::ENDED_KEPT_FOR).since(now.wall));
        timer.into_iter().chain(ended).min()
    }

    /// Every row, by task id.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.entries.values().map(|entry| &entry.row)
    }

    pub fn row(&self, task_id: &TaskId) -> Option<&Row> {
        self.entries.get(task_id).map(|entry| &entry.row)
    }

    /// Whether no task holds a process or a cgroup.
    pub fn is_idle(&self) -> bool {
        self.rows().all(|row| !row.holds_resources())
    }

    /// For Hello: every task whose end the leader may not know yet.
    pub fn known(&self) -> Vec<KnownTask> {
        let is_told = |entry: &&Entry| entry.row.holds_resources() || !entry.row.is_acknowledged();
        let known = |Entry { row, awaits_secrets, .. }: &Entry| KnownTask {
            task_id: row.task_id.clone(),
            sequence: row.sequence,
            state: row.state(),
            // A launch goes on when it is assigned again. An end is told again to a leader that has its number, and yet
            // doesn't believe it.
            awaits_word: *awaits_secrets || !row.holds_resources(),
        };
        self.entries.values().filter(is_told).map(known).collect()
    }

    fn live(&self) -> Vec<TaskId> {
        self.rows().filter(|row| row.is_live()).map(|row| row.task_id.clone()).collect()
    }

    fn welcomed(
        &mut self,
        assignments: Vec<Assignment>,
        unchanged: &[KnownTask],
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let assigned = assignments.iter().map(|assignment| assignment.spec.task_id.clone());
        let listed: BTreeSet<TaskId> =
            assigned.chain(unchanged.iter().map(|known| known.task_id.clone())).collect();
        for task_id in std::mem::take(&mut self.damaged) {
            match listed.contains(&task_id) {
                true => drop(self.damaged.insert(task_id)),
                // Nobody asks for it any more.
                false => actions.push(Action::Forget { task_id }),
            }
        }
        // What ended unheard is told before anything new begins.
        for assignment in &assignments {
            self.catch_up(&assignment.spec.task_id, assignment.recorded_sequence, now, actions);
        }
        for known in unchanged {
            // What was told of it since the hello is above this.
            self.catch_up(&known.task_id, known.sequence, now, actions);
        }
        for entry in self.entries.values() {
            actions.extend(entry.row.unacknowledged().map(|status| Action::Report(Box::new(status.clone()))));
        }
        for task_id in self.live() {
            if !listed.contains(&task_id) {
                self.order_kill(&task_id, KillCause::NotAssigned, None, now, actions);
            }
        }
        for assignment in assignments {
            self.assigned(assignment, now, actions);
        }
    }

    /// Compares what the log has of a task with its row, so that what is repeated is what it lacks.
    fn catch_up(&mut self, task_id: &TaskId, recorded: u64, now: Now, actions: &mut Vec<Action>) {
        let agent_id = self.agent_id.clone();
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        let row = &mut entry.row;
        let is_over = matches!(row.phase, Phase::Ended { .. } | Phase::Removing);
        if is_over && row.is_acknowledged() && recorded == 0 {
            return; // An old id for a new task: `assigned` refuses it.
        }
        if recorded > row.sequence || is_over && recorded == row.sequence {
            // The log has a status that isn't ours (the agent was thought unreachable), or doesn't
            // believe ours: say again what is true, above it.
            if let Some(latest) = row.statuses.last().cloned() {
                row.sequence = recorded;
                row.acknowledged = recorded;
                row.statuses.clear();
                let verdict = Verdict {
                    state: latest.state,
                    reason: latest.reason,
                    message: latest.message,
                    exit: latest.exit,
                    usage: latest.usage,
                };
                push_status(row, &agent_id, verdict, latest.health, latest.is_released, now);
                actions.push(Action::WriteRecord(Box::new(row.clone())));
            }
        } else {
            // Also backwards: a log that lost our last status hears it again.
            row.acknowledged = recorded;
            row.trim_statuses();
        }
        self.settle(task_id);
    }

    pub(crate) fn order_kill(
        &mut self,
        task_id: &TaskId,
        cause: KillCause,
        grace: Option<Duration>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        if !entry.row.is_live() {
            return;
        }
        let grace = grace.unwrap_or(entry.row.spec.kill_grace);
        let grace = grace.min(Duration::from_millis(model::limits::KILL_GRACE_MS_MAX));
        let kill = Kill { cause, deadline: now.uptime + grace };
        if let Some(before) = &mut entry.row.kill {
            // A second order can only hasten the end.
            if kill.deadline < before.deadline {
                before.deadline = kill.deadline;
                actions.push(Action::WriteRecord(Box::new(entry.row.clone())));
                self.settle(task_id);
            }
            return;
        }
        entry.row.kill = Some(kill);
        if std::mem::take(&mut entry.awaits_secrets) {
            // Nothing of it has begun, and nobody is at it.
            self.begin_anew(task_id, now, actions);
            return;
        }
        match entry.row.phase {
            Phase::Running { process } => self.begin_kill(task_id, process, now, actions),
            // The launch is under way on another thread; its answer will find the order.
            _ => {
                let row = &entry.row;
                actions.push(Action::WriteRecord(Box::new(row.clone())));
                if row.phase == Phase::Preparing && !row.spec.fetches.is_empty() {
                    let (task_id, attempt) = (task_id.clone(), row.attempt.clone());
                    actions.push(Action::CancelFetch { task_id, attempt });
                }
            }
        }
    }

    /// Tells that the task is being ended, and sends the first signal.
    pub(crate) fn begin_kill(
        &mut self,
        task_id: &TaskId,
        process: ProcessId,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(Entry { row: Row { kill: Some(kill), spec, statuses, .. }, judge, .. }) =
            self.entries.get(task_id)
        else {
            return;
        };
        let (kill, signal) = (*kill, spec.kill_signal);
        let message = match (kill.cause, statuses.last()) {
            // What made it unhealthy.
            (KillCause::Unhealthy, Some(last)) => last.message.clone(),
            _ => String::new(),
        };
        if judge.is_some() {
            actions.push(Action::EndChecks { task_id: task_id.clone() });
        }
        self.tell(task_id, Verdict::killing(kill.cause, message), false, now, actions);
        if kill.deadline > now.uptime {
            actions.push(Action::Terminate { task_id: task_id.clone(), process, signal });
        } else {
            self.kill_all(task_id, now, actions);
        }
    }

    pub(crate) fn kill_all(&mut self, task_id: &TaskId, now: Now, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        entry.killed_at = Some(now.uptime);
        let attempt = entry.row.attempt.clone();
        actions.push(Action::KillAll { task_id: task_id.clone(), attempt });
        self.settle(task_id);
    }

    fn acknowledged(&mut self, task_id: &TaskId, sequence: u64, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        let row = &mut entry.row;
        let sequence = sequence.min(row.sequence);
        if sequence <= row.acknowledged {
            return;
        }
        row.acknowledged = sequence;
        row.trim_statuses();
        if matches!(row.phase, Phase::Ended { .. }) && row.is_acknowledged() {
            actions.push(Action::WriteRecord(Box::new(row.clone())));
        }
        self.settle(task_id);
    }

    fn exited(
        &mut self,
        task_id: &TaskId,
        exit: Option<Exit>,
        usage: Option<Usage>,
        processes: &[ProcessEnd],
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        let (Phase::Releasing { process } | Phase::Running { process }) = entry.row.phase else { return };
        let is_group = !entry.row.spec.processes.is_empty();
        // In a group they are those of one process, and no measure of the whole.
        let usage = with_oom_figures(usage, entry.oom.take().filter(|_| !is_group));
        let verdict = match entry.row.kill {
            Some(kill) => Verdict::killed(kill, &entry.row.spec, exit, usage),
            None if is_group => Verdict::of_group(exit, usage, processes, &entry.row.spec),
            None => Verdict::of_exit(exit, usage),
        };
        self.end(task_id, Some(process), verdict, now, actions);
    }

    /// The main process is over: the rest follows it, then the end is told.
    pub(crate) fn end(
        &mut self,
        task_id: &TaskId,
        process: Option<ProcessId>,
        verdict: Verdict,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        if entry.is_checked() {
            actions.push(Action::EndChecks { task_id: task_id.clone() });
        }
        entry.row.phase = Phase::Ending { process, verdict, since: now.uptime };
        actions.push(Action::WriteRecord(Box::new(entry.row.clone())));
        self.kill_all(task_id, now, actions);
    }

    /// Nothing of the task is on this host: it ends with one status.
    pub(crate) fn end_at_once(
        &mut self,
        task_id: &TaskId,
        verdict: Verdict,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        entry.row.phase = Phase::Ended { at: now.wall };
        entry.row.spec = slim(&entry.row.spec);
        self.tell(task_id, verdict, true, now, actions);
    }

    /// The health check was answered: only a change is told.
    fn probed(&mut self, task_id: &TaskId, failure: Option<&str>, now: Now, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        if !entry.is_checked() {
            return; // It came late.
        }
        let Entry { row, judge: Some(judge), failures, .. } = entry else { return };
        let Some(check) = &row.spec.health_check else { return };
        let age = now.uptime.since(row.began.unwrap_or(now.uptime));
        let change = judge.hear(check, age, failure.is_none());
        let is_to_end = check.is_killed_when_unhealthy && judge.health() == Health::Unhealthy;
        if change.is_some() {
            let times = check.failures_max;
            let because = |why| format!("its health check failed {times} times in a row: {why}");
            let message = failure.map(because).unwrap_or_else(|| failures.clone());
            self.tell(task_id, Verdict::running(message), false, now, actions);
        }
        // One that is about to recover is left alone.
        if !is_to_end || failure.is_none() {
            return;
        }
        if self.kill_budget.take(now.uptime) {
            self.order_kill(task_id, KillCause::Unhealthy, None, now, actions);
            return;
        }
        let judge = self.entries.get_mut(task_id).and_then(|entry| entry.judge.as_mut());
        // Told once for each time that it became unhealthy.
        if judge.is_some_and(|judge| !std::mem::replace(&mut judge.is_spared, true)) {
            actions.push(Action::Spare { task_id: task_id.clone() });
        }
    }

    /// Each port is told once, together with those before it.
    fn port_used(&mut self, task_id: &TaskId, port: String, now: Now, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        if entry.ports.len() >= limits::PORTS_TOLD_MAX || entry.ports.contains(&port) {
            return;
        }
        entry.ports.push(port);
        // Before it runs, the status that says so will name it; afterwards there is more important news.
        if matches!(entry.row.phase, Phase::Running { .. }) && entry.row.kill.is_none() {
            self.tell(task_id, Verdict::running(""), false, now, actions);
        }
    }

    fn emptied(&mut self, task_id: &TaskId, last: Option<Usage>, now: Now, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get(task_id) else { return };
        let row = &entry.row;
        let (process, verdict) = match &row.phase {
            Phase::Ending { process, verdict, .. } => {
                let verdict = verdict.clone();
                (*process, Verdict { usage: with_last_counts(verdict.usage, last), ..verdict })
            }
            Phase::Lingering { process, .. } => {
                // The final status again, now with nothing left.
                let Some(status) = row.statuses.last().cloned() else { return };
                let TaskStatus { state, reason, message, exit, usage, .. } = status;
                (*process, Verdict { state, reason, message, exit, usage: with_last_counts(usage, last) })
            }
            // Too early: it is seen again after the next kill of the cgroup.
            Phase::Preparing
            | Phase::Releasing { .. }
            | Phase::Running { .. }
            | Phase::Ended { .. }
            | Phase::Removing => return,
        };
        let attempt = row.attempt.clone();
        self.end_at_once(task_id, verdict, now, actions);
        actions.push(Action::UnregisterMeter { task_id: task_id.clone(), attempt: attempt.clone() });
        actions
            .extend(process.map(|process| Action::UnregisterProcess { task_id: task_id.clone(), process }));
        actions.push(Action::RemoveCgroups { task_id: task_id.clone(), attempt });
    }

    fn tick(&mut self, now: Now, actions: &mut Vec<Action>) {
        let due: Vec<TaskId> = self
            .timers
            .iter()
            .take_while(|(at, _)| *at <= now.uptime)
            .map(|(_, task_id)| task_id.clone())
            .collect();
        for task_id in due {
            self.tick_one(&task_id, now, actions);
        }
    }

    fn tick_one(&mut self, task_id: &TaskId, now: Now, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        match &entry.row.phase {
            Phase::Running { .. } if entry.row.kill.is_none() => {
                self.order_kill(task_id, KillCause::RunTimeLimit, None, now, actions);
            }
            Phase::Running { .. } => self.kill_all(task_id, now, actions),
            Phase::Ending { process, verdict, since } if *since + limits::RELEASE_WAIT <= now.uptime => {
                let verdict = verdict.clone();
                entry.row.phase = Phase::Lingering { process: *process, since: *since };
                self.tell(task_id, verdict, false, now, actions);
                self.kill_all(task_id, now, actions);
            }
            Phase::Ending { .. } | Phase::Lingering { .. } => self.kill_all(task_id, now, actions),
            // `collect_ended` sees to it.
            Phase::Ended { .. } => {}
            Phase::Preparing | Phase::Releasing { .. } | Phase::Removing => {}
        }
    }

    /// Lets go of the oldest ended tasks: too many, or too old.
    fn collect_ended(&mut self, now: Now, actions: &mut Vec<Action>) {
        while let Some((at, _)) = self.ended.first() {
            if self.ended.len() <= limits::ENDED_KEPT_MAX && *at + limits::ENDED_KEPT_FOR > now.wall {
                return;
            }
            self.collect_oldest(actions);
        }
    }

    /// Lets go of the task that ended first.
    fn collect_oldest(&mut self, actions: &mut Vec<Action>) {
        let Some((_, task_id)) = self.ended.first().cloned() else { return };
        let Some(entry) = self.entries.get_mut(&task_id) else { return };
        entry.row.phase = Phase::Removing;
        let attempt = entry.row.attempt.clone();
        actions.push(Action::RemoveSandbox { task_id: task_id.clone(), attempt });
        self.settle(&task_id);
    }

    /// Adds a status to the row, stores it and reports it.
    pub(crate) fn tell(
        &mut self,
        task_id: &TaskId,
        verdict: Verdict,
        is_released: bool,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        let is_running = verdict.state == TaskState::Running;
        let verdict = if is_running { verdict.with_ports(&entry.ports) } else { verdict };
        let health = entry.judge.as_ref().filter(|_| is_running).map(Judge::health);
        let status = push_status(&mut entry.row, &self.agent_id, verdict, health, is_released, now);
        actions.push(Action::WriteRecord(Box::new(entry.row.clone())));
        actions.push(Action::Report(Box::new(status)));
        self.settle(task_id);
    }

    /// Brings the indices up to date with one row.
    pub(crate) fn settle(&mut self, task_id: &TaskId) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        let (timer, ended) = (entry.deadline(), entry.ended_at());
        replace(&mut self.timers, task_id, std::mem::replace(&mut entry.timer, timer), timer);
        replace(&mut self.ended, task_id, std::mem::replace(&mut entry.ended, ended), ended);
    }

    /// Whether the indices are what the rows say; for tests.
    #[cfg(test)]
    pub fn indices_are_right(&self) -> bool {
        fn of<T: Ord>(
            entries: &BTreeMap<TaskId, Entry>,
            when: fn(&Entry) -> Option<T>,
        ) -> BTreeSet<(T, TaskId)> {
            entries.iter().filter_map(|(id, entry)| when(entry).map(|at| (at, id.clone()))).collect()
        }
        self.timers == of(&self.entries, Entry::deadline) && self.ended == of(&self.entries, Entry::ended_at)
    }
}

fn replace<T: Ord>(index: &mut BTreeSet<(T, TaskId)>, task_id: &TaskId, before: Option<T>, after: Option<T>) {
    if before == after {
        return;
    }
    if let Some(before) = before {
        index.remove(&(before, task_id.clone()));
    }
    if let Some(after) = after {
        index.insert((after, task_id.clone()));
    }
}

fn push_status(
    row: &mut Row,
    agent_id: &AgentId,
    verdict: Verdict,
    health: Option<Health>,
    is_released: bool,
    now: Now,
) -> TaskStatus {
    let Verdict { state, reason, message, exit, usage } = verdict;
    row.sequence += 1;
    let status = TaskStatus {
        task_id: row.task_id.clone(),
        framework_id: row.framework_id.clone(),
        agent_id: Some(agent_id.clone()),
        state,
        reason,
        message: cut(message),
        exit,
        at: now.wall,
        sequence: row.sequence,
        is_released,
        usage,
        health,
    };
    // Of many changes of health that nobody has heard of, the latest is enough.
    if let [.., before, last] = row.statuses.as_slice()
        && [before.state, last.state, status.state] == [TaskState::Running; 3]
    {
        row.statuses.pop();
    }
    row.statuses.push(status.clone());
    row.trim_statuses();
    status
}

/// Cuts a message to what a status may hold.
fn cut(mut message: String) -> String {
    if message.len() > model::limits::MESSAGE_BYTES_MAX {
        let end = (0..=model::limits::MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(end.unwrap_or(0));
    }
    message
}

/// What an ended task still needs of its spec: its secrets, and up to 256 KiB of arguments and environment,
/// are not among it.
fn slim(spec: &TaskSpec) -> Arc<TaskSpec> {
    let name = spec.name.clone();
    Arc::new(TaskSpec { name, ..TaskSpec::new(spec.task_id.clone(), spec.resources.clone(), Vec::new()) })
}

/// The kernel's figures of the moment of an OOM kill replace those read after the exit.
fn with_oom_figures(usage: Option<Usage>, oom: Option<Usage>) -> Option<Usage> {
    let Some(oom) = oom else { return usage };
    let mut usage = usage.unwrap_or_default();
    usage.at = oom.at;
    for (figure, value) in oom.figures() {
        // The counter in the cgroup is the judge; the event alone proves at least one.
        if figure.kind() == Kind::Gauge || usage.get(figure).is_none() {
            usage.set(figure, Some(value));
        }
    }
    Some(usage)
}

/// What only grows is final now that nothing runs; the rest is of the moment of the end.
fn with_last_counts(at_end: Option<Usage>, last: Option<Usage>) -> Option<Usage> {
    let (Some(mut usage), Some(last)) = (at_end.clone(), last) else { return at_end };
    for (figure, value) in last.figures().filter(|(figure, _)| figure.is_final_at_the_end()) {
        usage.set(figure, Some(value));
    }
    Some(usage)
}

/// Names cgroups and sandbox. The first word keeps a task called `cpu` apart from the kernel's own files.
pub(crate) fn attempt_name(task_id: &TaskId, now: Timestamp) -> String {
    format!("task-{task_id}.{}", Base36(now.0.unsigned_abs()))
}

/// The task that [`attempt_name`] named it after.
pub(crate) fn task_of_attempt(attempt: &str) -> Option<TaskId> {
    let (task_id, _) = attempt.strip_prefix("task-")?.rsplit_once('.')?;
    TaskId::new(task_id).ok()
}

/// Short, and fit for a file name.
struct Base36(u64);

impl std::fmt::Display for Base36 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut digits = Vec::new();
        let mut left = self.0;
        loop {
            // A remainder of 36 always is a digit of base 36.
            digits.extend(u32::try_from(left % 36).ok().and_then(|digit| char::from_digit(digit, 36)));
            left /= 36;
            if left == 0 {
                break;
            }
        }
        formatter.write_str(&digits.iter().rev().collect::<String>())
    }
}
