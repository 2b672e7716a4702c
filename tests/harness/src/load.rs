//! A framework that launches many short tasks, and a ledger into which each task writes that it runs.
//!
//! What the cluster promises can then be judged from outside: [`Heard::judge`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
};

use muster_client::{
    ClientError, Connection, Event, Framework, FrameworkOptions, is_final,
    scheduler::{Demand, FrameworkInfo},
    types::{Reason, Resources, TaskSpec, TaskState, TaskStatus, exit},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// What each task takes, in thousandths of a CPU: ten of them fill an agent of one.
const CPUS_MILLI: u64 = 100;
const MEM_MIB: u64 = 8;

fn shape() -> Resources {
    Resources { cpus_milli: CPUS_MILLI, mem_mib: MEM_MIB, ..Resources::default() }
}

/// Tasks under way.
pub struct Load {
    count: usize,
    ledger: TempDir,
    framework: JoinHandle<Result<BTreeMap<String, Vec<TaskStatus>>, ClientError>>,
}

/// Everything that the framework heard, and the ledger.
pub struct Heard {
    statuses: BTreeMap<String, Vec<TaskStatus>>,
    count: usize,
    ledger: TempDir,
}

impl Load {
    /// Lets a framework launch so many tasks, some at a time; each takes between half a second and a second.
    pub fn start(connection: Connection, count: usize) -> Self {
        let ledger = tempfile::Builder::new().prefix("muster-test-ledger-").tempdir_in("/var/tmp");
        let ledger = ledger.expect("a directory can be made");
        let page = ledger.path().join("page");
        fs::write(&page, "").expect("it is ours");
        // Tasks are other users.
        fs::set_permissions(ledger.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        fs::set_permissions(&page, fs::Permissions::from_mode(0o666)).expect("it is ours");
        let specs = (0..count).map(|number| {
            let text = format!(
                "echo load-{number} >> {}; sleep 0.{}; exit {}",
                page.display(),
                5 + number % 5,
                number % 7
            );
            let command = ["sh", "-c", &text].map(str::to_owned).to_vec();
            let (task_id, name) = (format!("load-{number}"), "load".to_owned());
            TaskSpec { task_id, name, resources: Some(shape()), command, ..TaskSpec::default() }
        });
        let framework = tokio::spawn(launch_all(connection, specs.collect()));
        Self { count, ledger, framework }
    }

    /// How many tasks have begun.
    pub fn begun(&self) -> usize {
        page(&self.ledger).lines().count()
    }

    pub fn is_over(&self) -> bool {
        self.framework.is_finished()
    }

    /// Waits until every task is over and heard of.
    pub async fn finish(self) -> Heard {
        let Self { count, ledger, framework } = self;
        let limit = crate::patience() * 2;
        let heard = tokio::time::timeout(limit, framework).await;
        let heard = heard.unwrap_or_else(|_| {
            panic!("after {limit:?} tasks are missing; begun are {}", page(&ledger).lines().count())
        });
        let statuses = heard.expect("no panic").expect("the framework hears of its tasks");
        Heard { statuses, count, ledger }
    }
}

impl Heard {
    /// Panics unless each task ran once, and its end was told once and truly.
    pub fn judge(&self) {
        assert_eq!(self.statuses.len(), self.count, "tasks are missing");
        let mut ran: BTreeMap<String, usize> = BTreeMap::new();
        for line in page(&self.ledger).lines() {
            *ran.entry(line.to_owned()).or_default() += 1;
        }
        for (id, statuses) in &self.statuses {
            let number: i32 = id.trim_start_matches("load-").parse().expect("ids are ours");
            let finals: Vec<_> = statuses.iter().filter(|status| is_final(status.state())).collect();
            assert_eq!(finals.len(), 1, "{id} ended more than once: {statuses:?}");
            let exit = finals[0].exit.and_then(|exit| exit.how);
            assert_eq!(exit, Some(exit::How::Code(number % 7)), "{id}: {statuses:?}");
            let is_in_order = statuses.is_sorted_by(|older, newer| older.sequence < newer.sequence);
            assert!(is_in_order, "{id} was told out of order or twice: {statuses:?}");
            assert_eq!(ran.remove(id), Some(1), "how often {id} ran: {statuses:?}");
        }
        assert!(ran.is_empty(), "these ran and were never heard of: {ran:?}");
    }

    /// Tasks that were called unreachable at some time.
    pub fn unreachable(&self) -> usize {
        let is_so = |status: &TaskStatus| status.state() == TaskState::Unreachable;
        self.statuses.values().filter(|statuses| statuses.iter().any(is_so)).count()
    }
}

fn page(ledger: &TempDir) -> String {
    fs::read_to_string(ledger.path().join("page")).expect("the ledger can be read")
}

async fn launch_all(
    connection: Connection,
    specs: Vec<TaskSpec>,
) -> Result<BTreeMap<String, Vec<TaskStatus>>, ClientError> {
    let info = FrameworkInfo { name: "load".to_owned(), ..FrameworkInfo::default() };
    let options = FrameworkOptions { info, ..FrameworkOptions::default() };
    let mut framework = Framework::subscribe(&connection, options).await?;
    let mut specs: BTreeMap<String, TaskSpec> =
        specs.into_iter().map(|spec| (spec.task_id.clone(), spec)).collect();
    let mut unlaunched: BTreeSet<String> = specs.keys().cloned().collect();
    // Accepts whose fate is open: the log is asked for it.
    let mut doubtful: BTreeSet<String> = BTreeSet::new();
    let mut heard: BTreeMap<String, Vec<TaskStatus>> = BTreeMap::new();
    want(&mut framework, unlaunched.len()).await;
    while !specs.is_empty() {
        match framework.next().await? {
            Event::Subscribed => want(&mut framework, unlaunched.len()).await,
            Event::Offers(offers) => {
                for offer in offers {
                    let held = offer.resources.unwrap_or_default();
                    let room = (held.cpus_milli / CPUS_MILLI).min(held.mem_mib / MEM_MIB);
                    let room = usize::try_from(room).unwrap_or(usize::MAX);
                    let some: Vec<String> = unlaunched.iter().take(room).cloned().collect();
                    unlaunched.retain(|id| !some.contains(id));
                    let tasks = some.iter().filter_map(|id| specs.get(id).cloned()).collect();
                    let accepted = framework.accept(vec![offer.offer_id], tasks, None).await;
                    let is_sure =
                        accepted.is_ok_and(|results| results.iter().all(|one| one.refusal.is_none()));
                    if !is_sure {
                        doubtful.extend(some);
                    }
                }
                want(&mut framework, unlaunched.len()).await;
            }
            Event::Status(status) => {
                let id = status.task_id.clone();
                if is_final(status.state()) {
                    specs.remove(&id);
                    unlaunched.remove(&id);
                }
                heard.entry(id).or_default().push(*status);
                // Failing is harmless: what is not acknowledged is only kept longer.
                let _ = framework.acknowledge().await;
            }
            Event::Rescinded { .. } | Event::AgentLost { .. } | Event::AgentBack { .. } => {}
        }
        if doubtful.is_empty() {
            continue;
        }
        match framework.reconcile(doubtful.iter().cloned().collect()).await {
            Ok(known) => {
                for status in known {
                    // The log knows nothing of it, so it may be launched; if it learns of it yet, a second
                    // launch is refused.
                    let is_unknown = status.reason() == Reason::TaskUnknown;
                    if doubtful.remove(&status.task_id) && is_unknown && specs.contains_key(&status.task_id) {
                        unlaunched.insert(status.task_id);
                    }
                }
                want(&mut framework, unlaunched.len()).await;
            }
            // Asked again with the next subscription.
            Err(_unanswered) => framework.disconnect(),
        }
    }
    // One that lost its subscription since the last event is torn down by its timeout.
    let _ = framework.teardown().await;
    Ok(heard)
}

async fn want(framework: &mut Framework, count: usize) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let demand = Demand { shape: Some(shape()), count, constraints: Vec::new() };
    // Failing is harmless: the next subscription says it again.
    let _ = framework.set_demand(if count == 0 { Vec::new() } else { vec![demand] }).await;
}
