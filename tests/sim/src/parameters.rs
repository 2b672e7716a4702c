//! What a run draws before it begins: small limits most of all, so that edges are common.

use std::fmt;

use leader::Config;
use model::{ClusterId, Duration, Resources};

use crate::{chance::Chance, client::SLICE_MILLI};

/// Everything about a run that its seed decides at once.
#[derive(Debug, Clone)]
pub struct Parameters {
    pub members: usize,
    pub agents: usize,
    pub frameworks: usize,
    /// How long faults may happen.
    pub trouble: Duration,
    /// Mean time between two faults.
    pub fault_interval: Duration,
    /// How likely each kind of fault is; zero for those that this run leaves out.
    pub weights: [u64; crate::faults::Kind::ALL.len()],
    /// Most millionths that a clock is too fast or too slow.
    pub drift: u64,
    /// In thousandths, for packets between members.
    pub lost: u64,
    pub repeated: u64,
    pub latency: Duration,
    /// The longest that a disk takes to make something durable.
    pub sync: Duration,
    /// Entries after which a member makes a snapshot.
    pub snapshot_after: u64,
    /// Thousandths of an agent's actions at which it crashes.
    pub agent_crashes: u64,
    /// Thousandths of the records after which a member crashes.
    pub member_crashes: u64,
    /// Thousandths of launches that fail.
    pub launch_failures: u64,
    /// Whether hosts keep exit statuses that nobody waited for.
    pub are_exits_kept: bool,
    /// Cores of each agent.
    pub cpus: u64,
    /// The longest that a task works.
    pub work: Duration,
    /// Mean time between two things that a client does.
    pub client_pace: Duration,
    pub offer_lease: Duration,
    pub agent_heartbeat: Duration,
    pub agent_timeout: Duration,
    pub framework_heartbeat: Duration,
    pub patience: Duration,
    pub cycle_interval: Duration,
    pub finished_tasks_kept: Duration,
    pub failover_timeout: Duration,
    /// Whether everyone wants more than there is in the end, and shares are compared.
    pub is_fairness_judged: bool,
}

/// Thousandths of worlds in which shares are compared: that takes as much as all faults of three or four worlds.
const FAIRNESS_JUDGED: u64 = 125;

/// Thousandths of worlds with more agents than may be called unreachable at once.
const CROWDED: u64 = 120;

impl Parameters {
    pub fn draw(chance: &mut Chance) -> Self {
        let seconds = Duration::from_secs;
        let millis = Duration::from_millis;
        let agent_heartbeat = chance.span(millis(500), seconds(5));
        let mut weights = [0; crate::faults::Kind::ALL.len()];
        for weight in &mut weights {
            // A run that leaves kinds out sees more of the others.
            *weight = if chance.happens(400) { 0 } else { chance.between(1, 4) };
        }
        let is_hasty = chance.happens(300);
        let is_crowded = chance.happens(CROWDED);
        Self {
            members: *chance.one_of(&[1, 3, 3, 3, 5]).unwrap_or(&3),
            agents: if is_crowded { chance.place(9) + 6 } else { chance.place(5) + 1 },
            frameworks: chance.place(4) + 1,
            trouble: chance.span(seconds(300), seconds(2400)),
            fault_interval: chance.uneven_span(seconds(2), seconds(60)),
            weights,
            drift: *chance.one_of(&[0, 100, 1000, 50_000]).unwrap_or(&0),
            lost: *chance.one_of(&[0, 10, 100, 300]).unwrap_or(&0),
            repeated: *chance.one_of(&[0, 10, 100]).unwrap_or(&0),
            latency: chance.uneven_span(millis(1), millis(500)),
            sync: chance.uneven_span(millis(1), millis(500)),
            snapshot_after: chance.between(5, 500),
            agent_crashes: *chance.one_of(&[0, 0, 2, 20]).unwrap_or(&0),
            member_crashes: *chance.one_of(&[0, 0, 1, 10]).unwrap_or(&0),
            launch_failures: *chance.one_of(&[0, 20, 200]).unwrap_or(&0),
            are_exits_kept: chance.happens(700),
            cpus: chance.between(2, 8),
            work: chance.uneven_span(seconds(1), seconds(600)),
            client_pace: chance.uneven_span(millis(200), seconds(10)),
            offer_lease: chance.span(seconds(1), seconds(30)),
            agent_heartbeat,
            agent_timeout: agent_heartbeat * u32::try_from(chance.between(4, 8)).unwrap_or(4),
            framework_heartbeat: chance.span(seconds(2), seconds(15)),
            patience: chance.span(seconds(2), seconds(15)),
            cycle_interval: chance.uneven_span(millis(2), millis(200)),
            finished_tasks_kept: chance.uneven_span(seconds(5), seconds(100_000)),
            failover_timeout: if is_hasty {
                chance.span(seconds(30), seconds(120))
            } else {
                seconds(604_800)
            },
            // So few frameworks can't want more than so many agents have.
            is_fairness_judged: !is_crowded && chance.happens(FAIRNESS_JUDGED),
        }
    }

    /// A world without faults but those that somebody makes: how much there is, is what it is about.
    pub fn at_scale(agents: usize, tasks_per_agent: u64) -> Self {
        let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
        Self {
            members: 3,
            agents,
            frameworks: 8,
            trouble: Duration::MAX,
            fault_interval: seconds(3600),
            weights: [0; crate::faults::Kind::ALL.len()],
            drift: 100,
            lost: 0,
            repeated: 0,
            latency: millis(2),
            sync: millis(5),
            snapshot_after: 100_000,
            agent_crashes: 0,
            member_crashes: 0,
            launch_failures: 0,
            are_exits_kept: true,
            cpus: tasks_per_agent * SLICE_MILLI / 1000,
            work: seconds(1),
            client_pace: seconds(1),
            // Nobody is in a hurry to use what was offered.
            offer_lease: seconds(3600),
            agent_heartbeat: seconds(5),
            agent_timeout: seconds(30),
            framework_heartbeat: seconds(15),
            patience: seconds(15),
            cycle_interval: millis(2),
            finished_tasks_kept: seconds(3600),
            failover_timeout: seconds(604_800),
            is_fairness_judged: false,
        }
    }

    /// What each agent has.
    pub fn agent_total(&self) -> Resources {
        Resources { cpus_milli: self.cpus * 1000, mem_mib: self.cpus * 1024, ..Resources::default() }
    }

    pub fn leader_config(&self, cluster_new: ClusterId) -> Config {
        Config {
            offer_lease: self.offer_lease,
            agent_heartbeat: self.agent_heartbeat,
            agent_timeout: self.agent_timeout,
            framework_heartbeat: self.framework_heartbeat,
            patience: self.patience,
            cycle_interval: self.cycle_interval,
            finished_tasks_kept: self.finished_tasks_kept,
            ..Config::new(cluster_new)
        }
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self:?}")
    }
}
