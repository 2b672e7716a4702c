//! An agent: the real `core/supervisor` between a simulated leader's stream and a simulated machine.
//!
//! This file is its session, as the agent's own is one; `actor.rs` does what the supervisor decides, on the machine
//! of `host.rs`. What the agent stores is durable before anything that follows from it, because the real
//! checkpoint is.

mod actor;
mod host;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cluster::{AgentFacts, KnownTask};
use leader::{FromAgent, Hello, ToAgent};
use model::{AgentId, ClusterId, Duration, IdError, RefusalCode, Resources, TaskId};
use supervisor::{Action, Assignment, Event, Found, Known, Now, Row, Supervisor, Uptime};

use host::Host;
pub use host::Work;

use crate::{
    network::{Conn, Down, Up},
    record::Fact,
    stage::{Place, Stage, What},
    time::{Clock, Moment},
    world,
};

/// What can happen to an agent.
#[derive(Debug)]
pub enum Wake {
    Down {
        conn: Conn,
        message: Down,
    },
    Gone {
        conn: Conn,
    },
    /// It is time to look for a leader.
    Connect,
    /// It waited long enough for a Welcome.
    Late {
        conn: Conn,
    },
    Beat {
        conn: Conn,
    },
    /// The action of a task that was begun is done now.
    Done {
        task: TaskId,
    },
    /// The machine tells something.
    Happened(Event),
    /// A process ends by itself, if it still runs.
    Ends {
        attempt: String,
    },
    /// A cgroup may be empty.
    MaybeEmpty {
        task: TaskId,
        attempt: String,
    },
    Timer,
}

/// How long an agent waits for a Welcome.
const WELCOME_PATIENCE: Duration = Duration::from_secs(30);
/// Heartbeats of the leader that may be missing.
const SILENT_HEARTBEATS_MAX: u32 = 4;
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Thousandths of starts that come to nothing: whoever crashes once often does so again.
const START_FAILURES: u64 = 100;

/// Into how many buckets an agent sorts its tasks: not at all, as many as real ones do, or another number.
const BUCKETS: [Option<usize>; 5] = [None, Some(0), Some(1), Some(2), Some(32)];

/// What the agent of this number is called.
pub fn id_of(number: usize) -> Result<AgentId, IdError> {
    AgentId::new(&format!("a{number}"))
}

struct Session {
    conn: Conn,
    /// What its hello said.
    known: Known,
    is_welcomed: bool,
    heartbeat: Duration,
    heard_at: Moment,
}

/// One agent and its machine.
pub struct Agent {
    number: usize,
    id: AgentId,
    pub clock: Clock,
    pub is_up: bool,
    total: Resources,
    host: Host,
    // On its disk.
    rows: BTreeMap<TaskId, Row>,
    cluster: Option<ClusterId>,
    stored_boot: u32,
    // In its memory.
    supervisor: Supervisor,
    session: Option<Session>,
    pause: Duration,
    /// Which member it tries next.
    next_member: usize,
    lanes: BTreeMap<TaskId, VecDeque<Action>>,
    /// Processes whose end it will hear of.
    watched: BTreeSet<String>,
    timer_at: Option<Moment>,
    /// It was told that it is gone: when its tasks have ended, somebody gives it an empty disk.
    is_gone: bool,
    /// How many ids it had before.
    rebirths: u32,
}

impl Agent {
    pub fn new(number: usize, id: AgentId, clock: Clock, total: Resources) -> Self {
        Self {
            number,
            supervisor: Supervisor::new(id.clone()),
            id,
            clock,
            is_up: false,
            total,
            host: Host::default(),
            rows: BTreeMap::new(),
            cluster: None,
            stored_boot: 0,
            session: None,
            pause: PAUSE_MIN,
            next_member: 0,
            lanes: BTreeMap::new(),
            watched: BTreeSet::new(),
            timer_at: None,
            is_gone: false,
            rebirths: 0,
        }
    }

    pub fn id(&self) -> &AgentId {
        &self.id
    }

    fn place(&self) -> Place {
        Place::Agent(self.number)
    }

    fn later(&self, stage: &mut Stage, delay: Duration, wake: Wake) {
        stage.later(self.place(), delay, What::Agent(wake));
    }

    fn now(&self, stage: &Stage) -> Now {
        Now { wall: self.clock.wall(stage.now), uptime: Uptime(self.clock.uptime(stage.now)) }
    }

    pub fn wake(&mut self, wake: Wake, stage: &mut Stage) {
        // The machine goes on without its agent; a process that ends is seen when somebody looks again.
        if let Wake::Ends { attempt } = &wake {
            return self.process_ends(attempt, stage);
        }
        if !self.is_up {
            return;
        }
        match wake {
            Wake::Down { conn, message } => {
                if stage.arrives(self.place(), conn) {
                    self.down(conn, message, stage);
                }
            }
            Wake::Gone { conn } => {
                stage.gone(self.place(), conn);
                self.session_over(conn, stage);
            }
            Wake::Connect => self.connect(stage),
            Wake::Late { conn } => {
                if self.session.as_ref().is_some_and(|session| session.conn == conn && !session.is_welcomed) {
                    self.give_up(conn, stage);
                }
            }
            Wake::Beat { conn } => self.beat(conn, stage),
            Wake::Done { task } => self.done(&task, stage),
            Wake::Happened(event) => self.decide(event, stage),
            Wake::Ends { .. } => {}
            Wake::MaybeEmpty { task, attempt } => self.look_whether_empty(&task, &attempt, stage),
            Wake::Timer => {
                if self.timer_at.take_if(|at| *at <= stage.now).is_some() {
                    self.decide(Event::Tick, stage);
                }
            }
        }
    }

    fn connect(&mut self, stage: &mut Stage) {
        if self.session.is_some() {
            return;
        }
        if self.is_gone {
            if !self.supervisor.is_idle() || !self.lanes.is_empty() {
                return self.later(stage, Duration::from_secs(1), Wake::Connect);
            }
            self.begin_anew(stage);
        }
        let tasks = self.supervisor.known();
        // Older agents tell of all tasks, and another version may sort them otherwise.
        let buckets = *stage.chance.one_of(&BUCKETS).unwrap_or(&None);
        let is_told = buckets.is_none();
        let known = match buckets {
            Some(0) | None => Known::new(tasks),
            Some(buckets) => Known::in_buckets(tasks, buckets),
        };
        let hello = Hello {
            agent: self.id.clone(),
            cluster: self.cluster.clone(),
            facts: AgentFacts {
                hostname: format!("host{}", self.number),
                boot_id: format!("boot{}", self.host.boot),
                address: String::new(),
                version: String::new(),
                total: self.total.clone(),
                attributes: BTreeMap::new(),
                limitations: Vec::new(),
            },
            tasks: match is_told {
                true => leader::Known::All(told(known.tasks().to_vec())),
                false => leader::Known::Digests(known.digests().clone()),
            },
        };
        self.next_member = (self.next_member + 1) % stage.parameters.members;
        stage.trace.line(stage.now, || format!("a{} says hello to m{}", self.number, self.next_member));
        let tasks = told(known.tasks().to_vec());
        stage.record.note(stage.now, &Fact::SaidHello { agent: &self.id, tasks: &tasks });
        let conn = stage.open(self.place(), self.next_member, Up::Hello(Box::new(hello)));
        let (is_welcomed, heartbeat) = (false, Duration::ZERO);
        self.session = Some(Session { conn, known, is_welcomed, heartbeat, heard_at: stage.now });
        self.later(stage, self.clock.truly(WELCOME_PATIENCE), Wake::Late { conn });
    }

    /// Somebody moved its data away, so it has a new id.
    fn begin_anew(&mut self, stage: &mut Stage) {
        self.rebirths += 1;
        if let Ok(id) = AgentId::new(&format!("a{}.{}", self.number, self.rebirths)) {
            stage.trace.line(stage.now, || format!("a{} begins anew as {id}", self.number));
            self.id = id;
        }
        self.is_gone = false;
        self.cluster = None;
        self.rows.clear();
        self.host.sandboxes.clear();
        self.supervisor = Supervisor::new(self.id.clone());
        self.watched.clear();
        self.timer_at = None;
    }

    fn give_up(&mut self, conn: Conn, stage: &mut Stage) {
        stage.hang_up(self.place(), conn);
        self.session_over(conn, stage);
    }

    fn session_over(&mut self, conn: Conn, stage: &mut Stage) {
        let Some(session) = self.session.take_if(|session| session.conn == conn) else { return };
        if session.is_welcomed {
            self.pause = PAUSE_MIN;
            // Where it was is the best guess.
            self.next_member = (self.next_member + stage.parameters.members - 1) % stage.parameters.members;
        }
        let delay = stage.chance.span(self.pause / 2, self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.later(stage, delay, Wake::Connect);
    }

    fn beat(&mut self, conn: Conn, stage: &mut Stage) {
        let Some(session) = &self.session else { return };
        if session.conn != conn {
            return;
        }
        let silence = self.clock.uptime(stage.now).saturating_sub(self.clock.uptime(session.heard_at));
        if silence > session.heartbeat * SILENT_HEARTBEATS_MAX {
            return self.give_up(conn, stage);
        }
        let delay = self.clock.truly(session.heartbeat / 2);
        stage.send_up(conn, Up::Said(Box::new(FromAgent::Heartbeat)));
        self.later(stage, delay, Wake::Beat { conn });
    }

    fn down(&mut self, conn: Conn, message: Down, stage: &mut Stage) {
        let now = stage.now;
        let Some(session) = self.session.as_mut().filter(|session| session.conn == conn) else { return };
        session.heard_at = now;
        let message = match message {
            Down::ToAgent(message) => *message,
            Down::ToFramework(_) | Down::TellWhenDrained(_) => return,
            Down::Refused(_) => return self.give_up(conn, stage),
            Down::End => {
                stage.gone(self.place(), conn);
                return self.session_over(conn, stage);
            }
        };
        match message {
            ToAgent::ReadKnown { buckets } => {
                let tasks = told(session.known.of_buckets(&buckets));
                stage.trace.line(now, || {
                    format!("a{} tells of {} tasks in buckets {buckets:?}", self.number, tasks.len())
                });
                stage.send_up(conn, Up::Said(Box::new(FromAgent::Known(tasks))));
            }
            ToAgent::Welcome { cluster, epoch, term, assignments, unchanged, heartbeat_interval } => {
                session.is_welcomed = true;
                let unchanged = session.known.of_buckets(&unchanged);
                session.heartbeat = heartbeat_interval;
                self.cluster = Some(cluster);
                stage.trace.line(now, || format!("a{} is welcome: term {term}, epoch {epoch}", self.number));
                self.later(stage, Duration::ZERO, Wake::Beat { conn });
                let assignments = assignments.into_iter().map(assignment).collect();
                self.decide(Event::Welcomed { assignments, unchanged }, stage);
            }
            ToAgent::Launch(assignments) => {
                let assignments = assignments.into_iter().map(assignment).collect();
                self.decide(Event::Assigned { assignments }, stage);
            }
            ToAgent::Kill { task, grace } => {
                self.decide(Event::KillOrdered { task_id: task, grace: Some(grace) }, stage);
            }
            ToAgent::Acknowledge(tasks) => {
                for (task_id, sequence) in tasks {
                    self.decide(Event::Acknowledged { task_id, sequence }, stage);
                }
            }
            ToAgent::Refused { refusal, is_final } => {
                if refusal.code == RefusalCode::AgentGone {
                    self.give_up(conn, stage);
                    self.is_gone = true;
                    return self.decide(Event::EndAll, stage);
                }
                if is_final {
                    stage.record.fail(now, "converges", format!("agent {} was refused: {refusal}", self.id));
                }
                self.give_up(conn, stage);
            }
            ToAgent::Heartbeat
            | ToAgent::UsagePace { .. }
            | ToAgent::ReadOutput { .. }
            | ToAgent::ReadHistory { .. }
            | ToAgent::OpenChannel { .. } => {}
        }
    }

    /// Whether it crashes before its next action.
    fn fails(&mut self, stage: &mut Stage) -> bool {
        let often = stage.parameters.agent_crashes;
        self.fails_so_often(often, stage)
    }

    fn fails_so_often(&mut self, thousandths: u64, stage: &mut Stage) -> bool {
        if !stage.misfortune(thousandths) {
            return false;
        }
        self.crash(stage, false);
        let delay = stage.chance.uneven_span(Duration::from_millis(100), Duration::from_secs(30));
        let what = What::World(world::Wake::Restart(self.place()));
        stage.later(Place::World, delay, what);
        true
    }

    /// The agent stops at once; its machine only goes with it when the power does.
    pub fn crash(&mut self, stage: &mut Stage, is_power_gone: bool) {
        if self.is_up {
            stage.trace.line(stage.now, || format!("a{} crashes, power gone: {is_power_gone}", self.number));
            self.is_up = false;
            stage.break_lines_of(self.place(), is_power_gone);
            stage.end_life(self.place());
            self.session = None;
            self.lanes.clear();
            self.watched.clear();
            self.timer_at = None;
            self.host.agent_stops();
        }
        if is_power_gone {
            for process in std::mem::take(&mut self.host.processes).into_values() {
                if process.state == host::State::Begun {
                    let (task, is_killed) = (&process.task, false);
                    let fact = Fact::Over { agent: self.number, task, is_killed, exit: None };
                    stage.record.note(stage.now, &fact);
                }
            }
            for attempt in self.host.cgroups.keys() {
                stage.record.note(stage.now, &Fact::Emptied { agent: self.number, attempt });
            }
            self.host.reboot();
        }
    }

    /// Starts the agent: it finds what it has stored, and what is there.
    pub fn restart(&mut self, stage: &mut Stage) {
        if self.is_up {
            return;
        }
        self.is_up = true;
        self.is_gone = false;
        self.pause = PAUSE_MIN;
        self.next_member = stage.chance.place(stage.parameters.members);
        let rows: Vec<Row> = self.rows.values().cloned().collect();
        let found = Found {
            is_same_boot: self.stored_boot == self.host.boot,
            damaged: BTreeSet::new(),
            cgroups: self.host.cgroups.keys().cloned().collect(),
            sandboxes: self.host.sandboxes.clone(),
        };
        stage.trace.line(stage.now, || {
            format!("a{} starts with {} rows, same boot: {}", self.number, rows.len(), found.is_same_boot)
        });
        let (supervisor, actions) = Supervisor::restore(self.id.clone(), rows, found, self.now(stage));
        self.supervisor = supervisor;
        if !self.fails_so_often(START_FAILURES, stage) {
            self.perform(actions, stage);
        }
        if self.is_up {
            self.stored_boot = self.host.boot;
            let delay = stage.chance.uneven_span(Duration::from_millis(1), Duration::from_secs(2));
            self.later(stage, delay, Wake::Connect);
        }
    }

    /// Whether this member's leader has welcomed it, and it has not heard of that one's end.
    pub fn is_attached_to(&self, member: usize, stage: &Stage) -> bool {
        self.session.as_ref().is_some_and(|session| {
            session.is_welcomed && stage.network.member_of(session.conn) == Some(member)
        })
    }

    /// How many commands run on its machine.
    pub fn running(&self) -> usize {
        self.host.processes.values().filter(|process| process.state == host::State::Begun).count()
    }

    /// What is left of tasks, in words; empty when nothing is.
    pub fn residue(&self) -> Vec<String> {
        let mut left = Vec::new();
        for row in self.supervisor.rows().filter(|row| row.holds_resources() || !row.is_acknowledged()) {
            left.push(format!("{}: {} {row}", self.id, row.task_id));
        }
        let alive = self.host.processes.values().filter(|process| process.state == host::State::Begun);
        left.extend(alive.map(|process| format!("{}: process of {}", self.id, process.task)));
        left.extend(self.host.cgroups.keys().map(|attempt| format!("{}: cgroup {attempt}", self.id)));
        left
    }
}

fn told(tasks: Vec<supervisor::KnownTask>) -> Vec<KnownTask> {
    let row = |supervisor::KnownTask { task_id, sequence, state, awaits_word: _ }| KnownTask {
        task: task_id,
        sequence,
        state,
    };
    tasks.into_iter().map(row).collect()
}

fn assignment(assignment: leader::Assignment) -> Assignment {
    let leader::Assignment { framework, spec, kill, recorded_sequence } = assignment;
    Assignment { framework_id: framework, spec, kill, recorded_sequence }
}
