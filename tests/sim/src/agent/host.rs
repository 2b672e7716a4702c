//! A machine: processes, cgroups and sandboxes, which outlive the agent but not a reboot.

use std::collections::{BTreeMap, BTreeSet};

use model::{Duration, Exit, Resources, TaskId, TaskSpec};
use supervisor::ProcessId;

use crate::time::Moment;

/// What a task's command does, as its arguments say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// How long it takes; `None` for ever.
    pub span: Option<Duration>,
    pub exit: Exit,
    /// It does nothing about SIGTERM.
    pub is_deaf: bool,
    /// How long its cgroup holds processes after a SIGKILL.
    pub lingers: Duration,
}

impl Work {
    pub fn command(self) -> Vec<String> {
        let Self { span, exit, is_deaf, lingers } = self;
        let exit = match exit {
            Exit::Code(code) => u64::from(code),
            Exit::Signal(signal) => 256 + u64::from(signal),
        };
        let span = span.map_or("for-ever".to_owned(), |span| span.as_micros().to_string());
        let numbers = [exit.to_string(), u8::from(is_deaf).to_string(), lingers.as_micros().to_string()];
        let mut command = vec!["work".to_owned(), span];
        command.extend(numbers);
        command
    }

    pub fn of(spec: &TaskSpec) -> Self {
        let number = |place: usize| spec.command.get(place).and_then(|word| word.parse::<u64>().ok());
        let exit = number(2).unwrap_or(0);
        Self {
            span: number(1).map(Duration::from_micros),
            exit: match u8::try_from(exit) {
                Ok(code) => Exit::Code(code),
                Err(_) => Exit::Signal(u8::try_from(exit - 256).unwrap_or(9)),
            },
            is_deaf: number(3) == Some(1),
            lingers: Duration::from_micros(number(4).unwrap_or(0)),
        }
    }
}

/// The main process of one attempt.
#[derive(Debug, Clone)]
pub struct Process {
    pub id: ProcessId,
    pub task: TaskId,
    pub resources: Resources,
    pub work: Work,
    pub state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It waits for the agent's go, and ends with the agent.
    Held,
    /// It runs the command.
    Begun,
    /// It never ran the command.
    NeverBegan,
    Dead(Option<Exit>),
}

/// One machine.
#[derive(Debug, Default)]
pub struct Host {
    pub boot: u32,
    next_pid: u32,
    /// By attempt.
    pub processes: BTreeMap<String, Process>,
    /// With the moment until which a killed one won't be empty.
    pub cgroups: BTreeMap<String, Moment>,
    pub sandboxes: BTreeSet<String>,
}

impl Host {
    pub fn spawn(&mut self, attempt: &str, spec: &TaskSpec, uptime: Duration) -> ProcessId {
        self.next_pid += 1;
        let start_ticks = u64::try_from(uptime.as_millis() / 10).unwrap_or(0);
        let id = ProcessId { pid: self.next_pid, start_ticks };
        let process = Process {
            id,
            task: spec.task_id.clone(),
            resources: spec.resources.clone(),
            work: Work::of(spec),
            state: State::Held,
        };
        self.processes.insert(attempt.to_owned(), process);
        id
    }

    /// Whether some process is left in the attempt's cgroup.
    pub fn is_empty(&self, attempt: &str, now: Moment) -> bool {
        let is_alive = |process: &Process| matches!(process.state, State::Held | State::Begun);
        self.cgroups.get(attempt).is_none_or(|until| *until <= now)
            && !self.processes.get(attempt).is_some_and(is_alive)
    }

    /// The agent has stopped: processes that wait for its go end.
    pub fn agent_stops(&mut self) {
        for process in self.processes.values_mut().filter(|process| process.state == State::Held) {
            process.state = State::NeverBegan;
        }
    }

    /// The power was gone: nothing runs any more, and no cgroup is left.
    pub fn reboot(&mut self) {
        self.boot += 1;
        self.next_pid = 0;
        self.processes.clear();
        self.cgroups.clear();
    }
}
