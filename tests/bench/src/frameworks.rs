//! Frameworks that keep so many short tasks running each, and write down all that they hear.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use model::limits::TASKS_PER_ACCEPT_MAX;
use muster_client::scheduler::{Demand, FrameworkInfo, Offer};
use muster_client::types::{Reason, Resources, TaskSpec, TaskStatus};
use muster_client::{ClientError, Connection, Event, Framework, FrameworkOptions, is_final};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::simulated::{LIFE_KEY, Ledger};

/// What each task takes.
pub(crate) const CPUS_MILLI: u64 = 20;
pub(crate) const MEM_MIB: u64 = 8;

/// Offers that one call may decline.
const OFFERS_PER_CALL_MAX: usize = 1024;

/// What frameworks shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Launch,
    /// Nothing new; what runs goes on.
    Pause,
    /// The same, but to be offered too little for a task, and to hold that.
    Ask,
    /// Nothing new, and then the end.
    Finish,
}

/// The first offers of a subscription.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offered {
    pub(crate) subscribed: Instant,
    pub(crate) at: Instant,
}

/// What each framework does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// Tasks that run at a time.
    pub(crate) at_a_time: usize,
    /// How long the shortest takes; the longest takes half as long again. `None`: for ever, and only so many in all.
    pub(crate) life_ms: Option<u64>,
}

/// Frameworks under way.
pub(crate) struct Frameworks {
    phase: watch::Sender<Phase>,
    pub(crate) offered: mpsc::UnboundedReceiver<Offered>,
    running: JoinSet<Result<Book, ClientError>>,
}

impl Frameworks {
    pub(crate) fn start(connections: Vec<Connection>, prefix: &str, wish: Wish) -> Self {
        let (phase, phases) = watch::channel(Phase::Launch);
        let (offers, offered) = mpsc::unbounded_channel();
        let mut running = JoinSet::new();
        for (number, connection) in connections.into_iter().enumerate() {
            let one = One {
                prefix: format!("{prefix}-{number}"),
                wish,
                phases: phases.clone(),
                offers: offers.clone(),
                book: Book::default(),
                alive: BTreeSet::new(),
                refused: Vec::new(),
                doubtful: BTreeSet::new(),
                next: 0,
            };
            running.spawn(one.run(connection));
        }
        Self { phase, offered, running }
    }

    pub(crate) fn set(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// The first offers on a subscription that was opened after `since`.
    pub(crate) async fn offered_anew(&mut self, since: Instant) -> Option<Instant> {
        while let Some(offered) = self.offered.recv().await {
            if offered.subscribed > since {
                return Some(offered.at);
            }
        }
        None
    }

    /// Lets nothing new begin, and waits until every task is over; for tasks that end by themselves.
    pub(crate) async fn finish(mut self) -> Result<Book> {
        self.set(Phase::Finish);
        let mut all = Book::default();
        while let Some(book) = self.running.join_next().await {
            all.heard.extend(book??.heard);
        }
        Ok(all)
    }
}

/// What was heard of each task that was launched.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) heard: BTreeMap<String, Vec<(u64, bool)>>,
}

/// What the cluster promised and did not hold.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) launched: usize,
    pub(crate) lost: usize,
    pub(crate) started_twice: usize,
    pub(crate) statuses: usize,
    pub(crate) statuses_missing: usize,
}

impl Book {
    pub(crate) fn judge(&self, ledger: &Ledger) -> Verdict {
        let mut verdict = Verdict { launched: self.heard.len(), ..Verdict::default() };
        for (id, heard) in &self.heard {
            let finals = heard.iter().filter(|(_, is_final)| *is_final).count();
            verdict.lost += usize::from(finals != 1);
            let Some((began, said)) = ledger.tasks.get(id) else { continue };
            verdict.started_twice += usize::from(*began > 1);
            verdict.statuses += said.len();
            let is_missing = |sequence: &&u64| !heard.iter().any(|(known, _)| known == *sequence);
            verdict.statuses_missing += said.iter().filter(is_missing).count();
        }
        // What began and was never asked for.
        verdict.lost += ledger.tasks.keys().filter(|id| !self.heard.contains_key(*id)).count();
        verdict
    }
}

struct One {
    prefix: String,
    wish: Wish,
    phases: watch::Receiver<Phase>,
    offers: mpsc::UnboundedSender<Offered>,
    book: Book,
    alive: BTreeSet<String>,
    /// Ids that the log has never heard of: taken again.
    refused: Vec<String>,
    /// Accepts whose fate is open: the log is asked for it.
    doubtful: BTreeSet<String>,
    next: usize,
}

impl One {
    async fn run(mut self, connection: Connection) -> Result<Book, ClientError> {
        let info = FrameworkInfo { name: self.prefix.clone(), ..FrameworkInfo::default() };
        let options = FrameworkOptions { info, ..FrameworkOptions::default() };
        let mut framework = Framework::subscribe(&connection, options).await?;
        let mut subscribed = Instant::now();
        let mut unconfirmed = 0;
        self.want(&mut framework).await;
        loop {
            let phase = *self.phases.borrow_and_update();
            if phase == Phase::Finish && self.alive.is_empty() && self.doubtful.is_empty() {
                break;
            }
            let event = tokio::select! {
                event = framework.next() => event?,
                _changed = self.phases.changed() => {
                    self.want(&mut framework).await;
                    continue;
                }
            };
            match event {
                Event::Subscribed => {
                    subscribed = Instant::now();
                    self.want(&mut framework).await;
                }
                Event::Offers(offers) => {
                    // Nobody listens any more at the end.
                    let _ = self.offers.send(Offered { subscribed, at: Instant::now() });
                    self.use_offers(&mut framework, offers).await;
                    self.want(&mut framework).await;
                }
                Event::Status(status) => {
                    let was_final = self.note(&status);
                    unconfirmed += 1;
                    if unconfirmed == 16 {
                        unconfirmed = 0;
                        // Failing is harmless: what is not acknowledged is only kept longer.
                        let _ = framework.acknowledge().await;
                    }
                    if was_final {
                        self.want(&mut framework).await;
                    }
                }
                Event::Rescinded { .. } | Event::AgentLost { .. } | Event::AgentBack { .. } => {}
            }
            self.resolve_doubts(&mut framework).await;
        }
        let _ = framework.teardown().await;
        Ok(self.book)
    }

    fn note(&mut self, status: &TaskStatus) -> bool {
        let is_final = is_final(status.state());
        self.book.heard.entry(status.task_id.clone()).or_default().push((status.sequence, is_final));
        is_final && self.alive.remove(&status.task_id) && self.wish.life_ms.is_some()
    }

    fn missing(&self) -> usize {
        match *self.phases.borrow() {
            Phase::Launch => self.wish.at_a_time.saturating_sub(self.alive.len() + self.doubtful.len()),
            Phase::Pause | Phase::Ask | Phase::Finish => 0,
        }
    }

    async fn want(&self, framework: &mut Framework) {
        let count = u32::try_from(self.missing()).unwrap_or(u32::MAX);
        let (count, cpus_milli) = match *self.phases.borrow() {
            Phase::Ask => (1, CPUS_MILLI / 2),
            Phase::Launch | Phase::Pause | Phase::Finish => (count, CPUS_MILLI),
        };
        let shape = Resources { cpus_milli, mem_mib: MEM_MIB, ..Resources::default() };
        let demand = Demand { shape: Some(shape), count, constraints: Vec::new() };
        // Failing is harmless: the next subscription says it again.
        let _ = framework.set_demand(if count == 0 { Vec::new() } else { vec![demand] }).await;
    }

    /// Gives back at once what it does not need, so that others need not wait for it.
    async fn use_offers(&mut self, framework: &mut Framework, offers: Vec<Offer>) {
        let (mut used, mut unused, mut missing) = (Vec::new(), Vec::new(), self.missing());
        for offer in offers {
            match tasks_for(&offer).min(missing) {
                0 => unused.push(offer.offer_id),
                count => {
                    missing -= count;
                    used.push((offer.offer_id, count));
                }
            }
        }
        let is_asking = *self.phases.borrow() == Phase::Ask;
        for some in unused.chunks(OFFERS_PER_CALL_MAX).filter(|_| !is_asking) {
            // Failing is harmless: what is not declined ends with its lease.
            let _ = framework.decline(some.to_vec(), Some(Duration::ZERO)).await;
        }
        for (offer, count) in used {
            self.use_offer(framework, offer, count).await;
        }
    }

    async fn use_offer(&mut self, framework: &mut Framework, offer: String, count: usize) {
        let ids: Vec<String> = (0..count).map(|_| self.id()).collect();
        let tasks = ids.iter().map(|id| self.spec(id)).collect();
        match framework.accept(vec![offer], tasks, Some(Duration::ZERO)).await {
            Ok(results) => {
                for result in results {
                    match result.refusal {
                        None => {
                            self.book.heard.entry(result.task_id.clone()).or_default();
                            self.alive.insert(result.task_id);
                        }
                        Some(_) => self.doubtful.extend([result.task_id]),
                    }
                }
            }
            Err(_unknown) => self.doubtful.extend(ids),
        }
    }

    fn id(&mut self) -> String {
        self.refused.pop().unwrap_or_else(|| {
            self.next += 1;
            format!("{}-{}", self.prefix, self.next)
        })
    }

    fn spec(&self, id: &str) -> TaskSpec {
        let resources = Resources { cpus_milli: CPUS_MILLI, mem_mib: MEM_MIB, ..Resources::default() };
        let life = self.wish.life_ms.map(|life| {
            // Spread, and the same at each run.
            let salt =
                id.bytes().fold(7_u64, |salt, byte| salt.wrapping_mul(31).wrapping_add(u64::from(byte)));
            (LIFE_KEY.to_owned(), (life + salt % (life / 2).max(1)).to_string())
        });
        TaskSpec {
            task_id: id.to_owned(),
            name: "bench".to_owned(),
            resources: Some(resources),
            command: vec!["true".to_owned()],
            env: life.into_iter().collect(),
            ..TaskSpec::default()
        }
    }

    async fn resolve_doubts(&mut self, framework: &mut Framework) {
        if self.doubtful.is_empty() {
            return;
        }
        let asked = self.doubtful.iter().cloned().collect();
        let Ok(known) = framework.reconcile(asked).await else {
            // Asked again with the next subscription.
            framework.disconnect();
            return;
        };
        for status in known {
            if !self.doubtful.remove(&status.task_id) {
                continue;
            }
            if status.reason() == Reason::TaskUnknown {
                // If the log learns of it yet, a second launch is refused.
                self.refused.push(status.task_id);
                continue;
            }
            // Its end may have been heard before the doubt.
            let heard = self.book.heard.entry(status.task_id.clone()).or_default();
            if !heard.iter().any(|(_, is_final)| *is_final) {
                self.alive.insert(status.task_id);
            }
        }
        self.want(framework).await;
    }
}

/// How many tasks find room in an offer.
fn tasks_for(offer: &Offer) -> usize {
    let held = offer.resources.clone().unwrap_or_default();
    let room = (held.cpus_milli / CPUS_MILLI).min(held.mem_mib / MEM_MIB);
    usize::try_from(room).unwrap_or(usize::MAX).min(TASKS_PER_ACCEPT_MAX)
}
