//! What reports of usage cost the leader, as agents and tasks grow, beside sending full figures each time.
//!
//! Reports go through what the coordinator does with their bytes: protobuf, the model, the leader's machine. The
//! network and HTTP/2 are not in it. Figures that change are half of all, as of a task that works.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use cluster::{AgentFacts, ClusterState, apply};
use leader::{Call, CallId, Config, Effect, FromAgent, Hello, Input, Known, Leader, SessionId, ToAgent};
use model::{
    AgentId, ClusterId, Duration, Figure, Kind, Opened, Reporter, Resources, Subject, TaskId, Timestamp,
    Usage, UsageReport,
};
use nix::time::{ClockId, clock_gettime};
use prost::Message as _;
use proto::agent::v1 as wire;

/// Reports of all agents in one measurement.
const ROUNDS: u64 = 5;
/// Messages that the leader's loop settles together: few, as at a quiet time.
const TURN: usize = 8;

#[derive(clap::Args)]
pub struct Args {
    /// Agents and tasks of each, instead of the usual list
    #[arg(long, num_args = 2, value_names = ["AGENTS", "TASKS"])]
    size: Option<Vec<usize>>,
}

pub fn run(args: &Args) -> Result<()> {
    println!(
        "{:>7} {:>6} {:>9} | {:>9} {:>10} {:>9} | {:>9} {:>10} {:>9}",
        "agents", "tasks", "interval", "bytes", "us/report", "cores", "bytes", "us/report", "cores"
    );
    println!("{:>24} | {:^30} | {:^30}", "each", "changes", "full figures");
    let sizes = match args.size.as_deref() {
        Some([agents, tasks]) => vec![(*agents, *tasks)],
        Some(_) => bail!("--size takes two numbers"),
        None => vec![(10, 10), (100, 10), (1000, 10), (10_000, 10), (10_000, 1), (1000, 100), (100, 1000)],
    };
    for (agents, tasks) in sizes {
        let mut world = World::new(agents, tasks)?;
        let changes = world.measure(false)?;
        let full = world.measure(true)?;
        let interval = world.interval.as_secs_f64();
        let cores = |cost: &Cost| cost.seconds / ROUNDS as f64 / interval;
        let each = |cost: &Cost| cost.seconds * 1e6 / cost.reports as f64;
        let bytes = |cost: &Cost| cost.bytes / cost.reports;
        println!(
            "{agents:>7} {tasks:>6} {:>7} s | {:>9} {:>10.1} {:>9.5} | {:>9} {:>10.1} {:>9.5}",
            interval,
            bytes(&changes),
            each(&changes),
            cores(&changes),
            bytes(&full),
            each(&full),
            cores(&full),
        );
    }
    Ok(())
}

/// CPU time that reports took.
struct Cost {
    seconds: f64,
    bytes: u64,
    reports: u64,
}

struct Agent {
    session: SessionId,
    reporter: Reporter,
    figures: BTreeMap<Subject, Usage>,
}

/// A leader with agents, and a log that decides at once.
struct World {
    leader: Leader,
    state: ClusterState,
    index: u64,
    now: Timestamp,
    agents: Vec<Agent>,
    /// As the leader told it.
    interval: Duration,
}

impl World {
    fn new(agents: usize, tasks: usize) -> Result<Self> {
        let state = ClusterState::new();
        let config = Config::new(ClusterId::new("bench")?);
        let now = Timestamp(1_000_000);
        let leader = Leader::new(config, 1, &state, now);
        let interval = Duration::from_secs(2);
        let mut world = Self { leader, state, index: 0, now, agents: Vec::new(), interval };
        world.settle();
        for number in 0..agents {
            let agent = AgentId::new(&format!("agent-{number}"))?;
            let hello = Hello { agent, cluster: None, facts: facts(), tasks: Known::All(Vec::new()) };
            let call = CallId(number as u64);
            world.leader.handle(Input::Call { call, what: Call::Attach(hello) }, &world.state, now);
            let session = world.settle().context("an agent was not let in")?;
            let figures = std::iter::once(Ok(Subject::Host))
                .chain(
                    (0..tasks).map(|task| Ok(Subject::Task(TaskId::new(&format!("task.{number}-{task}"))?))),
                )
                .map(|subject: Result<Subject>| Ok((subject?, Usage::default())))
                .collect::<Result<_>>()?;
            world.agents.push(Agent { session, reporter: Reporter::default(), figures });
        }
        // The first reports are full; then the leader knows how many there are, and says how often.
        world.measure(false)?;
        world.now = world.now + Duration::from_secs(2);
        world.leader.handle(Input::Tick, &world.state, world.now);
        world.settle();
        Ok(world)
    }

    /// Carries out what the leader wants until it wants nothing more; answers the newest session.
    fn settle(&mut self) -> Option<SessionId> {
        let mut opened = None;
        loop {
            let effects = self.leader.settle(&self.state, self.now);
            let mut proposed = false;
            for effect in effects {
                match effect {
                    Effect::Propose { ticket, entry } => {
                        proposed = true;
                        self.index += 1;
                        let outcome = apply(&mut self.state, self.index, &entry);
                        self.leader.handle(
                            Input::Applied { changes: outcome.changes },
                            &self.state,
                            self.now,
                        );
                        let result = Ok(outcome.answer);
                        self.leader.handle(Input::Answered { ticket, result }, &self.state, self.now);
                    }
                    Effect::OpenSession { session, .. } => opened = Some(session),
                    Effect::ToAgent { message: ToAgent::UsagePace { interval }, .. } => {
                        self.interval = interval
                    }
                    _ => {}
                }
            }
            if !proposed {
                return opened;
            }
        }
    }

    /// Lets all agents report a few times.
    fn measure(&mut self, is_full: bool) -> Result<Cost> {
        let mut cost = Cost { seconds: 0.0, bytes: 0, reports: 0 };
        for _ in 0..ROUNDS {
            self.now = self.now + Duration::from_millis(1);
            let mut messages = Vec::new();
            for agent in &mut self.agents {
                for (number, usage) in agent.figures.values_mut().enumerate() {
                    go_on(usage, self.now, number as u64);
                }
                let reports =
                    if is_full { full(&agent.figures) } else { agent.reporter.report(&agent.figures) };
                for report in reports {
                    let message = wire::from_agent::Message::Usage(codec::to_usage_report(report));
                    messages
                        .push((agent.session, wire::FromAgent { message: Some(message) }.encode_to_vec()));
                }
            }
            let before = cpu_seconds()?;
            for some in messages.chunks(TURN) {
                for (session, bytes) in some {
                    let message = wire::FromAgent::decode(bytes.as_slice())?.message;
                    let Some(wire::from_agent::Message::Usage(report)) = message else { bail!("no report") };
                    let message = FromAgent::Usage(codec::usage_report(report)?);
                    self.leader.handle(Input::Said { session: *session, message }, &self.state, self.now);
                }
                self.settle();
            }
            cost.seconds += cpu_seconds()? - before;
            cost.reports += messages.len() as u64;
            cost.bytes += messages.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        }
        Ok(cost)
    }
}

/// All figures of all subjects, as a report that knows no earlier one.
fn full(figures: &BTreeMap<Subject, Usage>) -> Vec<UsageReport> {
    let opened = figures.iter().zip(0..).map(|((subject, usage), key)| Opened {
        key,
        subject: subject.clone(),
        usage: usage.clone(),
    });
    vec![UsageReport { opened: opened.collect(), ..UsageReport::default() }]
}

/// A while later: every second figure has moved.
pub(crate) fn go_on(usage: &mut Usage, now: Timestamp, salt: u64) {
    let is_first = usage.at == Timestamp::EPOCH;
    usage.at = now;
    for figure in Figure::ALL {
        let number = u64::from(figure.number());
        if is_first {
            usage.set(figure, Some((number * 7919 + salt * 104_729) << 12));
        } else if number % 2 == 0 {
            let step = (number * 31 + salt * 17 + now.0.unsigned_abs()) % 5000;
            let by = match figure.kind() {
                Kind::Counter => step.cast_signed() << (number % 3 * 6),
                Kind::Gauge => step.cast_signed() - 2500,
            };
            usage.add(figure, by);
        }
    }
}

fn facts() -> AgentFacts {
    AgentFacts {
        hostname: "host".to_owned(),
        boot_id: "boot".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        version: "1".to_owned(),
        total: Resources { cpus_milli: 4000, mem_mib: 4096, ..Resources::default() },
        attributes: model::Attributes::default(),
        limitations: Vec::new(),
    }
}

fn cpu_seconds() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}
