//! The script's words, and how effects are shown.

use std::collections::{BTreeMap, VecDeque};

use cluster::{AgentFacts, ClusterState, Command, DeactivatedTasks, Entry, FrameworkInfo, KnownTask};
use model::{
    AgentId, ClusterId, Cursor, Digests, Duration, Figure, FrameworkEvent, FrameworkId, KnownRow, OfferId,
    Opened, Reason, Refusal, RequestId, Resources, RoleName, Subject, SubscriptionId, TaskId, TaskSpec,
    TaskState, TaskStatus, Timestamp, Usage, UsageReport,
};

use crate::{
    Call, CallId, Caller, ChannelId, Config, Demand, Effect, FromAgent, Hello, HistoryRequest, Input, Known,
    Leader, OutputChunk, OutputRequest, OutputStream, ProposeError, Reply, SessionId, SubscribeParams,
    Ticket, ToAgent, ToFramework,
};

pub struct World {
    pub leader: Leader,
    pub state: ClusterState,
    pub now: Timestamp,
    index: u64,
    term: u64,
    calls: u64,
    /// Proposals that the log has not decided yet.
    pub held: VecDeque<(Ticket, Entry)>,
    is_holding: bool,
    /// Each line is one turn, and the log decides when told to.
    is_single: bool,
    sessions: BTreeMap<String, SessionId>,
    session_names: BTreeMap<SessionId, String>,
    frameworks: BTreeMap<String, FrameworkId>,
    subscriptions: BTreeMap<String, SubscriptionId>,
    subscription_names: BTreeMap<SubscriptionId, String>,
    callers: BTreeMap<CallId, String>,
    is_drained: bool,
    /// What the log was told at registrations.
    registered: Vec<String>,
    out: Vec<String>,
}

pub fn config() -> Config {
    Config::new(ClusterId::new("c1").unwrap())
}

impl World {
    pub fn new() -> Self {
        let now = Timestamp::EPOCH + Duration::from_secs(1000);
        let state = ClusterState::new();
        let mut leader = Leader::new(config(), 1, &state, now);
        leader.handle(Input::Supported { version: cluster::VERSION_SUPPORTED }, &state, now);
        let mut world = Self {
            leader,
            state,
            now,
            index: 0,
            term: 1,
            calls: 0,
            held: VecDeque::new(),
            is_holding: false,
            is_single: false,
            sessions: BTreeMap::new(),
            session_names: BTreeMap::new(),
            frameworks: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            subscription_names: BTreeMap::new(),
            callers: BTreeMap::new(),
            is_drained: true,
            registered: Vec::new(),
            out: Vec::new(),
        };
        world.settle();
        world.out.clear();
        world
    }

    pub fn play(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let rest = &words[1..];
        match words[0] {
            "agent" => self.attach(rest),
            "say" => self.say(rest),
            "tell" => {
                let known = FromAgent::Known(known_tasks(rest.get(1).unwrap_or(&"")));
                self.hear(rest[0], known);
            }
            "counts" => {
                let counts = self.leader.counts();
                let (told, spared) = (counts.known_tasks_told, counts.known_tasks_spared);
                self.out.push(format!("{told} told, {spared} spared"));
            }
            "log" => {
                let shown = self.registered.drain(..);
                self.out.extend(shown);
            }
            "beat" => self.hear(rest[0], FromAgent::Heartbeat),
            "gone" => {
                let session = self.sessions[rest[0]];
                self.input(Input::SessionGone { session });
            }
            "subscribe" => self.subscribe(rest),
            "lost" => {
                let subscription = self.subscriptions[rest[0]].clone();
                self.input(Input::SubscriptionGone { subscription });
            }
            "accept" => {
                let caller = self.caller(rest);
                let tasks =
                    rest[2..].iter().filter(|word| word.contains(':')).map(|word| task(word)).collect();
                self.call(
                    rest[0],
                    Call::Accept { caller, offers: offers(rest[1]), tasks, refuse: refuse(rest) },
                );
            }
            "decline" => {
                let caller = self.caller(rest);
                self.call(rest[0], Call::Decline { caller, offers: offers(rest[1]), refuse: refuse(rest) });
            }
            "demand" => {
                let caller = self.caller(rest);
                let demands = rest[1..]
                    .iter()
                    .filter_map(|word| word.split_once('x'))
                    .map(|(count, shape)| Demand {
                        count: count.parse().unwrap(),
                        shape: resources(shape.split(',')),
                        constraints: Vec::new(),
                    })
                    .collect();
                self.call(rest[0], Call::SetDemand { caller, demands });
            }
            "suppress" => {
                let caller = self.caller(rest);
                self.call(rest[0], Call::Suppress { caller });
            }
            "revive" => {
                let caller = self.caller(rest);
                self.call(rest[0], Call::Revive { caller });
            }
            "kill" => {
                let caller = self.caller(rest);
                self.call(rest[0], Call::Kill { caller, task: TaskId::new(rest[1]).unwrap(), grace: None });
            }
            "reconcile" => {
                let caller = self.caller(rest);
                let tasks = rest[1..].iter().map(|id| TaskId::new(id).unwrap()).collect();
                self.call(rest[0], Call::Reconcile { caller, tasks });
            }
            "acknowledge" => {
                let caller = self.caller(rest);
                self.call(rest[0], Call::Acknowledge { caller, cursor: cursor(rest[1]) });
            }
            "teardown" => {
                let caller = self.caller(rest);
                self.call(rest[0], Call::Teardown { caller });
            }
            "run" => {
                let request = self.request();
                let tasks = rest.iter().map(|word| task(word)).collect();
                self.call("user", Call::Run { request, tasks });
            }
            "stop" => {
                let request = self.request();
                self.call(
                    "user",
                    Call::KillTask { request, task: TaskId::new(rest[0]).unwrap(), grace: None },
                );
            }
            "read" => {
                let request = OutputRequest {
                    task: TaskId::new(rest[0]).unwrap(),
                    stream: OutputStream::Stdout,
                    offset: 0,
                    tail: None,
                    newer_than: None,
                    process: None,
                    limit: 100,
                    wait: Duration::from_secs(2),
                };
                self.call("user", Call::ReadOutput(request));
            }
            "channel" => {
                let call =
                    Call::OpenChannel { channel: ChannelId([7; 16]), task: TaskId::new(rest[0]).unwrap() };
                self.call("user", call);
            }
            "frozen" => {
                let tasks = rest[1..].iter().map(|task| TaskId::new(task).unwrap()).collect();
                self.hear(rest[0], FromAgent::Frozen(tasks));
            }
            "is-frozen" => self.call("user", Call::IsFrozen(TaskId::new(rest[0]).unwrap())),
            "output" => {
                let chunk = OutputChunk { offset: 0, data: rest[2].into(), is_end: false };
                let request = rest[1].parse().unwrap();
                self.hear(rest[0], FromAgent::Output { request, result: Ok(chunk) });
            }
            "report" => {
                let opened = vec![Opened {
                    key: rest[1].parse().unwrap(),
                    subject: subject(rest[2]),
                    usage: Usage::default().with(Figure::CpuNs, rest[3].parse::<u64>().unwrap()),
                }];
                self.hear(rest[0], FromAgent::Usage(UsageReport { opened, ..UsageReport::default() }));
            }
            "changed" => {
                let report = UsageReport {
                    keys: vec![rest[1].parse().unwrap()],
                    changed: vec![1 << Figure::CpuNs.number()],
                    by: vec![rest[2].parse().unwrap()],
                    ..UsageReport::default()
                };
                self.hear(rest[0], FromAgent::Usage(report));
            }
            "used" => {
                let agent = AgentId::new(rest[0]).unwrap();
                self.call("user", Call::ReadUsage(vec![(agent, subject(rest[1]))]));
            }
            "history" => {
                let agent = AgentId::new(rest[0]).unwrap();
                let step = Duration::from_secs(1);
                let history = HistoryRequest { subject: subject(rest[1]), since: Timestamp::EPOCH, step };
                self.call("user", Call::ReadHistory { agent, history });
            }
            "points" => {
                let request = rest[1].parse().unwrap();
                let points = vec![Usage::default(); rest[2].parse().unwrap()];
                self.hear(rest[0], FromAgent::History { request, result: Ok(points) });
            }
            "why" => {
                for (task, lines) in self.leader.waiting_because(&self.state) {
                    self.out.push(format!("{task}: {}", lines.join("; ")));
                }
            }
            "wait" => self.wait(seconds(rest[0]), &rest[1..]),
            "deactivate" => {
                let request = RequestId::new(rest[1]).unwrap();
                let tasks = match rest.get(2) {
                    Some(_) => DeactivatedTasks::End { grace: None },
                    None => DeactivatedTasks::RunOn,
                };
                let agent = AgentId::new(rest[0]).unwrap();
                self.call("user", Call::DeactivateAgent { request, agent, tasks });
            }
            "activate" => {
                let request = RequestId::new(rest[1]).unwrap();
                self.call("user", Call::ActivateAgent { request, agent: AgentId::new(rest[0]).unwrap() });
            }
            "gone-for-good" => {
                let request = RequestId::new(rest[1]).unwrap();
                self.call("user", Call::MarkAgentGone { request, agent: AgentId::new(rest[0]).unwrap() });
            }
            "confirm" => {
                let agents = rest.iter().map(|agent| AgentId::new(agent).unwrap()).collect();
                self.call("user", Call::ConfirmUnreachable { agents });
            }
            "hold" => self.is_holding = true,
            "commit" => {
                self.is_holding = false;
                self.settle();
            }
            "turns" => self.is_single = true,
            "decide" => {
                if let Some((ticket, entry)) = self.held.pop_front() {
                    self.apply(ticket, &entry);
                }
            }
            "unread" => self.is_drained = false,
            "drain" => {
                self.is_drained = true;
                let subscription = self.subscriptions[rest[0]].clone();
                self.input(Input::Drained { subscription });
            }
            "busy" => {
                for (ticket, _) in std::mem::take(&mut self.held) {
                    self.input(Input::Answered { ticket, result: Err(ProposeError::Busy) });
                }
            }
            "pending" => {
                for (id, framework) in self.state.frameworks() {
                    self.out.push(format!("{id} has {} events pending", framework.events.len()));
                }
            }
            "unknown" => {
                for (ticket, _) in std::mem::take(&mut self.held) {
                    self.input(Input::Answered { ticket, result: Err(ProposeError::Unknown) });
                }
            }
            "elect" => {
                // The new leader's wall clock may be ahead.
                self.now = self.now + rest.first().map_or(Duration::ZERO, |ahead| seconds(ahead));
                self.elect();
            }
            other => panic!("what is {other}?"),
        }
        if self.is_single {
            self.now = self.now + config().cycle_interval;
            let effects = self.leader.settle(&self.state, self.now);
            self.show(effects);
        } else {
            self.settle();
        }
        std::mem::take(&mut self.out)
    }

    /// The leadership ends, and a new one begins with the same log.
    fn elect(&mut self) {
        let effects = self.leader.step_down();
        self.show(effects);
        self.held.clear();
        self.term += 1;
        self.leader = Leader::new(config(), self.term, &self.state, self.now);
        let supported = Input::Supported { version: cluster::VERSION_SUPPORTED };
        self.leader.handle(supported, &self.state, self.now);
    }

    fn attach(&mut self, words: &[&str]) {
        let agent = AgentId::new(words[0]).unwrap();
        let find = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
        let tasks = match (find("knows="), find("digests=")) {
            (list, None) => Known::All(known_tasks(list.unwrap_or_default())),
            (_, Some(list)) => Known::Digests(digests(list)),
        };
        let hello = Hello {
            agent,
            cluster: find("cluster=").map(|id| ClusterId::new(id).unwrap()),
            facts: AgentFacts {
                hostname: words[0].to_owned(),
                boot_id: find("boot=").unwrap_or("b1").to_owned(),
                address: "127.0.0.1:5051".to_owned(),
                version: "1".to_owned(),
                total: resources(words[1..].iter().copied()),
                attributes: Default::default(),
                limitations: Vec::new(),
            },
            tasks,
        };
        self.call(words[0], Call::Attach(hello));
    }

    fn say(&mut self, words: &[&str]) {
        let statuses = words[1..].iter().map(|word| self.status(word)).collect();
        self.hear(words[0], FromAgent::Updates(statuses));
    }

    /// Reads `task:state:sequence`, and `:released` where it is.
    fn status(&self, word: &str) -> TaskStatus {
        let parts: Vec<&str> = word.split(':').collect();
        let task_id = TaskId::new(parts[0]).unwrap();
        let framework_id = match self.state.task(&task_id) {
            Some(task) => task.framework.clone(),
            None => FrameworkId::new("nobody").unwrap(),
        };
        TaskStatus {
            task_id,
            framework_id,
            agent_id: None,
            state: state(parts[1]),
            reason: Reason::None,
            message: String::new(),
            exit: None,
            at: self.now,
            sequence: parts[2].parse().unwrap(),
            is_released: parts.get(3) == Some(&"released"),
            usage: None,
            health: None,
        }
    }

    pub fn hear(&mut self, agent: &str, message: FromAgent) {
        let session = self.sessions[agent];
        self.input(Input::Said { session, message });
    }

    fn subscribe(&mut self, words: &[&str]) {
        let find = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
        let params = SubscribeParams {
            info: FrameworkInfo {
                name: words[0].to_owned(),
                role: RoleName::new(find("role=").unwrap_or("default")).unwrap(),
                failover_timeout: seconds(find("timeout=").unwrap_or("3600")),
            },
            framework: find("id=")
                .map(|id| FrameworkId::new(id).unwrap())
                .or(self.frameworks.get(words[0]).cloned()),
            cursor: find("after=").map(cursor),
            request: None,
        };
        self.call(words[0], Call::Subscribe(params));
    }

    fn caller(&self, words: &[&str]) -> Caller {
        let find = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
        let nobody = || SubscriptionId::new("nobody").unwrap();
        let subscription = match find("as=") {
            Some(name) => {
                self.subscription_names.iter().find(|(_, known)| *known == name).map(|(id, _)| id.clone())
            }
            None => self.subscriptions.get(words[0]).cloned(),
        };
        Caller {
            framework: match self.frameworks.get(words[0]) {
                Some(id) => id.clone(),
                None => FrameworkId::new(words[0]).unwrap(),
            },
            subscription: subscription.unwrap_or_else(nobody),
            request: find("request=").map(|id| RequestId::new(id).unwrap()),
        }
    }

    fn request(&self) -> model::RequestId {
        model::RequestId::new(&format!("request{}", self.calls)).unwrap()
    }

    pub fn call(&mut self, who: &str, what: Call) {
        self.calls += 1;
        let call = CallId(self.calls);
        self.callers.insert(call, who.to_owned());
        self.input(Input::Call { call, what });
    }

    pub fn input(&mut self, input: Input) {
        self.leader.handle(input, &self.state, self.now);
    }

    /// Time passes in the steps that the leader asks for; the named agents speak every second.
    fn wait(&mut self, span: Duration, beating: &[&str]) {
        let until = self.now + span;
        let mut beat_at = self.now;
        while self.now < until {
            let next = self.leader.wake_at().min(beat_at + Duration::from_secs(1)).min(until);
            self.now = next.max(self.now + Duration::from_micros(1));
            if self.now >= beat_at + Duration::from_secs(1) {
                beat_at = self.now;
                for agent in beating {
                    self.hear(agent, FromAgent::Heartbeat);
                }
            }
            self.input(Input::Tick);
            self.settle();
        }
    }

    /// Settles and lets the log decide until nothing moves at this instant, small waits of the leader included.
    pub fn settle(&mut self) {
        loop {
            let effects = self.leader.settle(&self.state, self.now);
            let is_quiet = effects.is_empty();
            self.show(effects);
            let is_stuck = self.is_holding || self.held.is_empty();
            if !self.is_holding {
                while let Some((ticket, entry)) = self.held.pop_front() {
                    self.apply(ticket, &entry);
                }
            }
            if is_quiet && is_stuck {
                let soon = self.now + Duration::from_millis(5);
                if self.leader.wake_at() > soon {
                    return;
                }
                self.now = self.leader.wake_at().max(self.now + Duration::from_micros(1));
            }
        }
    }

    pub fn apply(&mut self, ticket: Ticket, entry: &Entry) {
        self.index += 1;
        if let Command::RegisterAgent { agent, tasks, .. } = &entry.command {
            let row =
                |known: &KnownTask| format!("{}:{}:{}", known.task, known.state.as_str(), known.sequence);
            let mut rows: Vec<_> = tasks.iter().map(row).collect();
            rows.sort();
            self.registered.push(format!("{agent} is registered with [{}]", rows.join(", ")));
        }
        let outcome = cluster::apply(&mut self.state, self.index, entry);
        self.input(Input::Applied { changes: outcome.changes });
        self.input(Input::Answered { ticket, result: Ok(outcome.answer) });
    }

    fn show(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Propose { ticket, entry } => self.held.push_back((ticket, entry)),
                Effect::Answer { call, answer } => {
                    let who = self.callers.remove(&call).expect("an answer comes once");
                    self.out.push(format!("{who} = {}", answered(&answer)));
                }
                Effect::OpenSubscription { call, framework, subscription } => {
                    let who = self.callers.remove(&call).expect("an answer comes once");
                    let count =
                        self.subscription_names.values().filter(|name| name.starts_with(&who)).count();
                    self.subscription_names.insert(subscription.clone(), format!("{who}#{}", count + 1));
                    self.subscriptions.insert(who.clone(), subscription);
                    self.frameworks.insert(who, framework);
                }
                Effect::ToFramework { subscription, message } => {
                    if let Some(text) = heard_by_framework(&message) {
                        let name = &self.subscription_names[&subscription];
                        self.out.push(format!("{name} < {text}"));
                    }
                }
                Effect::TellWhenDrained { subscription } => {
                    if self.is_drained {
                        self.input(Input::Drained { subscription });
                    }
                }
                Effect::CloseSubscription { subscription } => {
                    let name = &self.subscription_names[&subscription];
                    self.out.push(format!("{name} closed"));
                }
                Effect::OpenSession { call, session } => {
                    let who = self.callers.remove(&call).expect("an answer comes once");
                    let count = self.session_names.values().filter(|name| name.starts_with(&who)).count();
                    self.session_names.insert(session, format!("{who}#{}", count + 1));
                    self.sessions.insert(who, session);
                }
                Effect::ToAgent { session, message } => {
                    if let Some(text) = heard_by_agent(&message) {
                        let name = &self.session_names[&session];
                        self.out.push(format!("{name} < {text}"));
                    }
                }
                Effect::CloseSession { session } => {
                    let name = &self.session_names[&session];
                    self.out.push(format!("{name} closed"));
                }
            }
        }
    }
}

fn subject(word: &str) -> Subject {
    if word == "host" { Subject::Host } else { Subject::Task(TaskId::new(word).unwrap()) }
}

fn answered(answer: &Result<Reply, Refusal>) -> String {
    match answer {
        Ok(Reply::Done) => "done".to_owned(),
        Ok(Reply::Launched(results)) => {
            let shown: Vec<_> = results
                .iter()
                .map(|(task, refusal)| match refusal {
                    None => format!("{task} launched"),
                    Some(refusal) => format!("{task} {}", refusal.code),
                })
                .collect();
            format!("launched [{}]", shown.join(", "))
        }
        Ok(Reply::Statuses(statuses)) => {
            let shown: Vec<_> = statuses.iter().map(status_text).collect();
            format!("statuses [{}]", shown.join(", "))
        }
        Ok(Reply::Submitted(tasks)) => {
            let shown: Vec<_> = tasks.iter().map(TaskId::as_str).collect();
            format!("submitted [{}]", shown.join(", "))
        }
        Ok(Reply::Usage(figures)) => {
            let of = |usage: &Option<Usage>| usage.as_ref().and_then(|usage| usage.get(Figure::CpuNs));
            format!("used {:?}", figures.iter().map(of).collect::<Vec<_>>())
        }
        Ok(Reply::History(points)) => format!("history of {} points", points.len()),
        Ok(Reply::Confirmed(agents)) => {
            let shown: Vec<_> = agents.iter().map(AgentId::as_str).collect();
            format!("marked [{}]", shown.join(", "))
        }
        Ok(Reply::Told(agent)) => format!("told {agent}"),
        Ok(Reply::Frozen(is_frozen)) => format!("frozen: {is_frozen:?}"),
        Ok(Reply::Output(chunk)) => format!("output `{}`", String::from_utf8_lossy(&chunk.data)),
        Err(refusal) => format!("{}: {}", refusal.code, refusal.message),
    }
}

fn heard_by_framework(message: &ToFramework) -> Option<String> {
    Some(match message {
        ToFramework::Subscribed { .. } => "subscribed".to_owned(),
        ToFramework::Durable { cursor, event } => {
            let text = match event {
                FrameworkEvent::Status(status) => status_text(status),
                FrameworkEvent::AgentLost(agent) => format!("lost {agent}"),
                FrameworkEvent::AgentBack(agent) => format!("back {agent}"),
            };
            format!("{}.{} {text}", cursor.index, cursor.ordinal)
        }
        ToFramework::Compacted { statuses, cursor } => {
            let shown: Vec<_> = statuses.iter().map(status_text).collect();
            format!("compacted to {}.{} [{}]", cursor.index, cursor.ordinal, shown.join(", "))
        }
        ToFramework::Offers(offers) => {
            let shown: Vec<_> = offers
                .iter()
                .map(|offer| format!("{} of {} {}", offer.offer, offer.agent, offer.resources))
                .collect();
            format!("offers [{}]", shown.join(", "))
        }
        ToFramework::Rescind { offer, reason } => format!("rescind {offer}: {reason}"),
        ToFramework::Heartbeat => return None,
        ToFramework::Replaced => "replaced".to_owned(),
        ToFramework::Ended(refusal) => format!("ended: {}", refusal.code),
    })
}

fn heard_by_agent(message: &ToAgent) -> Option<String> {
    let assignments = |assignments: &[crate::Assignment]| {
        let shown: Vec<_> = assignments
            .iter()
            .map(|assignment| {
                let kill = if assignment.kill.is_some() { " kill" } else { "" };
                format!("{} after {}{kill}", assignment.spec.task_id, assignment.recorded_sequence)
            })
            .collect();
        shown.join(", ")
    };
    Some(match message {
        ToAgent::ReadKnown { buckets } => format!("read known {buckets:?}"),
        ToAgent::Welcome { epoch, assignments: list, unchanged, .. } => {
            let shown: Vec<_> = unchanged.iter().map(u32::to_string).collect();
            let same = if unchanged.is_empty() {
                String::new()
            } else {
                format!(", unchanged: {}", shown.join(" "))
            };
            format!("welcome {epoch} [{}]{same}", assignments(list))
        }
        ToAgent::Launch(list) => format!("launch [{}]", assignments(list)),
        ToAgent::Kill { task, grace } => format!("kill {task} {} s", grace.as_secs()),
        ToAgent::Acknowledge(tasks) => {
            let shown: Vec<_> = tasks.iter().map(|(task, sequence)| format!("{task} {sequence}")).collect();
            format!("acknowledge [{}]", shown.join(", "))
        }
        ToAgent::ReadHistory { request, history } => format!("history {request} {:?}", history.subject),
        ToAgent::UsagePace { interval } => format!("usage every {}s", interval.as_secs()),
        ToAgent::ReadOutput { request, output } => format!("read {request} {}", output.task),
        ToAgent::OpenChannel { channel: _, task } => format!("open a channel to {task}"),
        ToAgent::Heartbeat => return None,
        ToAgent::Refused { refusal, is_final } => {
            format!(
                "refused{} {}: {}",
                if *is_final { " for good" } else { "" },
                refusal.code,
                refusal.message
            )
        }
    })
}

/// Reads `task:state:sequence`, with commas between; of those with `:word` the agent needs a word.
fn known_tasks(list: &str) -> Vec<KnownTask> {
    list.split(',')
        .filter(|word| !word.is_empty())
        .map(|word| {
            let mut parts = word.split(':');
            KnownTask {
                task: TaskId::new(parts.next().unwrap()).unwrap(),
                state: state(parts.next().unwrap()),
                sequence: parts.next().unwrap().parse().unwrap(),
            }
        })
        .collect()
}

/// Digests of what [`known_tasks`] reads: four buckets, in which t1 to t4 are alone.
fn digests(list: &str) -> Digests {
    let awaits_word: Vec<bool> = list.split(',').map(|word| word.ends_with(":word")).collect();
    let known = known_tasks(list);
    let mut rows = Vec::new();
    for (KnownTask { task, sequence, state }, awaits_word) in known.iter().zip(awaits_word) {
        rows.push(KnownRow { task_id: task, sequence: *sequence, state: *state, awaits_word });
    }
    Digests::of(rows, 4)
}

fn status_text(status: &TaskStatus) -> String {
    let released = if status.is_released { " released" } else { "" };
    format!("{} {} #{}{released}", status.task_id, status.state.as_str(), status.sequence)
}

fn state(text: &str) -> TaskState {
    *TaskState::ALL.iter().find(|state| state.as_str() == text).unwrap()
}

fn cursor(text: &str) -> Cursor {
    let (index, ordinal) = text.split_once('.').unwrap();
    Cursor { index: index.parse().unwrap(), ordinal: ordinal.parse().unwrap() }
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs_f64(text.trim_end_matches('s').parse().unwrap())
}

fn refuse(words: &[&str]) -> Duration {
    words.iter().find_map(|word| word.strip_prefix("refuse=")).map_or(Duration::from_secs(5), seconds)
}

fn offers(text: &str) -> Vec<OfferId> {
    text.split(',').filter(|id| *id != "none").map(|id| OfferId::new(id).unwrap()).collect()
}

/// Reads `id:cpus=1,mem=64`.
pub fn task(text: &str) -> TaskSpec {
    let (id, needs) = text.split_once(':').unwrap();
    spec(id, resources(needs.split(',')))
}

pub fn spec(id: &str, resources: Resources) -> TaskSpec {
    TaskSpec {
        name: id.to_owned(),
        ..TaskSpec::new(TaskId::new(id).unwrap(), resources, vec!["true".to_owned()])
    }
}

pub fn resources<'a>(words: impl Iterator<Item = &'a str>) -> Resources {
    let mut resources = Resources::default();
    for word in words {
        match word.split_once('=') {
            Some(("cpus", value)) => resources.cpus_milli = (value.parse::<f64>().unwrap() * 1000.0) as u64,
            Some(("mem", value)) => resources.mem_mib = value.parse().unwrap(),
            Some(_) | None => {}
        }
    }
    resources
}
