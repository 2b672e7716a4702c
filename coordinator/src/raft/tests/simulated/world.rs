//! One run: hosts, faults, then calm, and a verdict. Everything that is drawn comes of the seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tempfile::TempDir;

use super::{
    super::{super::types::MemberId, RaftHandle},
    disk::SimulatedDisk,
    history::{History, Key},
    member::{live, name},
    planted::Bug,
    runtime::seed_this_thread,
};

/// How long faults happen, and how long the members have to recover from them all.
const FAULTS: Duration = Duration::from_secs(12);
const CALM_MAX: Duration = Duration::from_secs(20);

/// What clients do, and whether anything goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Forming,
    Faults,
    Calm,
}

/// Who answers whoever looks whether a member is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wall {
    /// The member's host.
    No,
    /// Something before it that refuses, whether the member lives or not.
    Refuses,
    /// Somebody else at its address.
    Accepts,
}

/// What hosts and driver share; clones are the same world.
#[derive(Clone)]
pub struct World {
    pub members: u64,
    pub folder: PathBuf,
    pub bug: Option<Bug>,
    pub snapshot_entries: u64,
    /// The longest that a client rests between two calls.
    pub pause_us: u64,
    pub election_timeout: Duration,
    shared: Arc<Shared>,
}

struct Shared {
    wall: Mutex<Wall>,
    gone: Mutex<BTreeSet<MemberId>>,
    disks: BTreeMap<MemberId, SimulatedDisk>,
    history: Mutex<History>,
    phase: Mutex<Phase>,
    chance: Mutex<SmallRng>,
    handles: Mutex<BTreeMap<MemberId, RaftHandle>>,
    published: Mutex<BTreeMap<MemberId, super::machine::Published>>,
    /// Keys that are to be read in the calm.
    last_reads: Mutex<BTreeSet<Key>>,
}

impl World {
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.shared.history.lock().unwrap()
    }

    pub fn disk(&self, id: MemberId) -> SimulatedDisk {
        self.shared.disks[&id].clone()
    }

    pub fn phase(&self) -> Phase {
        *self.shared.phase.lock().unwrap()
    }

    pub fn enter(&self, phase: Phase) {
        *self.shared.phase.lock().unwrap() = phase;
    }

    pub fn wall(&self) -> Wall {
        *self.shared.wall.lock().unwrap()
    }

    /// Members whose process ended, on hosts that live: those refuse, and turmoil's don't.
    pub fn gone(&self) -> MutexGuard<'_, BTreeSet<MemberId>> {
        self.shared.gone.lock().unwrap()
    }

    pub fn raise(&self, wall: Wall) {
        *self.shared.wall.lock().unwrap() = wall;
    }

    pub fn draw(&self) -> u64 {
        self.shared.chance.lock().unwrap().random()
    }

    pub fn last_reads(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.shared.last_reads.lock().unwrap()
    }

    /// Notes the newest start of a member, and what its readers see.
    pub fn runs(&self, id: MemberId, handle: RaftHandle, published: super::machine::Published) {
        self.shared.handles.lock().unwrap().insert(id, handle);
        self.shared.published.lock().unwrap().insert(id, published);
    }

    /// What a member's readers see now of a key.
    pub fn published_now(&self, id: MemberId, key: Key) -> u64 {
        let published = self.shared.published.lock().unwrap()[&id].clone();
        let found = published.lock().unwrap().get(&key).copied();
        found.unwrap_or(0)
    }

    pub fn leader(&self) -> Option<MemberId> {
        let handles = self.shared.handles.lock().unwrap();
        handles.iter().find(|(_, handle)| handle.leadership().borrow().is_leader).map(|(id, _)| *id)
    }

    /// A member that ended knows nothing any more.
    pub fn forget(&self, id: MemberId) {
        self.shared.handles.lock().unwrap().remove(&id);
    }

    /// Whether all members have applied the same, and every key was read once more.
    fn has_settled(&self) -> bool {
        if !self.last_reads().is_empty() || self.history().is_waiting() {
            return false;
        }
        let handles = self.shared.handles.lock().unwrap();
        let applied: BTreeSet<_> = handles.values().map(|handle| handle.metrics().applied_index).collect();
        applied.len() == 1
    }
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub answers: usize,
    pub unknowns: usize,
    pub terms: usize,
    pub faults: BTreeMap<&'static str, u32>,
    pub fingerprint: u32,
    pub simulated: Duration,
    pub verdict: Result<(), String>,
}

/// Runs one seed.
pub fn run(seed: u64, members: u64, bug: Option<Bug>) -> Report {
    let mut chance = SmallRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let wall = if seed % 4 == 3 { Wall::Refuses } else { Wall::No };
    let (world, mut sim) = build(&folder, &mut chance, seed, Kind { members, bug, wall, ..Kind::default() });
    let mut driver = Driver {
        world: world.clone(),
        lives: SmallRng::seed_from_u64(chance.random()),
        chance,
        faults: BTreeMap::new(),
        story: Vec::new(),
        down: BTreeMap::new(),
    };
    let outcome = driver.drive(&mut sim);
    let story = driver.story.join("\n");
    let simulated = sim.elapsed();
    drop(sim);
    let history = world.history();
    Report {
        answers: history.answers(),
        unknowns: history.unknowns(),
        terms: history.terms(),
        faults: driver.faults,
        fingerprint: history.fingerprint(),
        simulated,
        verdict: outcome
            .and_then(|()| history.judge())
            .map_err(|violation| format!("{violation}\nwhat was done to the members:\n{story}")),
    }
}

/// What the seed doesn't decide.
pub struct Kind {
    pub members: u64,
    pub bug: Option<Bug>,
    pub election_timeout: Duration,
    pub wall: Wall,
}

impl Default for Kind {
    fn default() -> Self {
        Self { members: 3, bug: None, election_timeout: Duration::from_millis(400), wall: Wall::No }
    }
}

/// Members that have yet to form a cluster.
pub fn build(
    folder: &TempDir,
    chance: &mut SmallRng,
    seed: u64,
    kind: Kind,
) -> (World, turmoil::Sim<'static>) {
    let Kind { members, bug, election_timeout, wall } = kind;
    seed_this_thread(seed);
    let disks = (1..=members).map(|id| (id, SimulatedDisk::new(chance.random(), bug))).collect();
    let world = World {
        members,
        folder: folder.path().to_owned(),
        bug,
        snapshot_entries: chance.random_range(20..200),
        pause_us: chance.random_range(5_000..60_000),
        election_timeout,
        shared: Arc::new(Shared {
            wall: Mutex::new(wall),
            gone: Mutex::default(),
            disks,
            history: Mutex::default(),
            phase: Mutex::new(Phase::Forming),
            chance: Mutex::new(SmallRng::seed_from_u64(chance.random())),
            handles: Mutex::default(),
            published: Mutex::default(),
            last_reads: Mutex::default(),
        }),
    };
    let mut sim = turmoil::Builder::new()
        .rng_seed(chance.random())
        .tick_duration(Duration::from_millis(1))
        .simulation_duration(Duration::from_secs(3600))
        .min_message_latency(Duration::from_micros(500))
        .max_message_latency(Duration::from_millis(chance.random_range(3..25)))
        .tcp_capacity(1 << 12)
        .build();
    for id in 1..=members {
        let world = world.clone();
        sim.host(name(id), move || live(world.clone(), id));
    }
    (world, sim)
}

/// Whoever breaks things and mends them.
struct Driver {
    world: World,
    /// Of the faults and their times alone, so that these are the same at each run of a seed.
    chance: SmallRng,
    /// Of all that depends on what the members did.
    lives: SmallRng,
    faults: BTreeMap<&'static str, u32>,
    /// What was done when, for whoever reads of a violation.
    story: Vec<String>,
    /// When each member that crashed starts again.
    down: BTreeMap<MemberId, Duration>,
}

impl Driver {
    fn drive(&mut self, sim: &mut turmoil::Sim<'_>) -> Result<(), String> {
        while self.world.phase() == Phase::Forming {
            self.step(sim)?;
            if sim.elapsed() > CALM_MAX {
                return Err("the cluster doesn't form".to_owned());
            }
        }
        let calm_at = sim.elapsed() + FAULTS;
        let one_in = self.chance.random_range(200..2000);
        (1..=self.world.members).for_each(|id| self.world.disk(id).set_cut(Some(one_in)));
        let mut next_fault = sim.elapsed();
        while sim.elapsed() < calm_at {
            if sim.elapsed() >= next_fault {
                let (leader, before) = (self.world.leader(), self.faults.clone());
                self.fault(sim);
                let new = self.faults.iter().find(|(fault, count)| before.get(*fault) != Some(*count));
                let new = new.map(|(fault, _)| fault);
                self.story.push(format!("{:?} {new:?}, led by {leader:?}", sim.elapsed()));
                next_fault = sim.elapsed() + Duration::from_millis(self.chance.random_range(50..1500));
            }
            self.step(sim)?;
        }

        (1..=self.world.members).for_each(|id| self.world.disk(id).set_cut(None));
        self.mend(sim);
        self.down.values_mut().for_each(|at| *at = sim.elapsed());
        let keys = self.world.history().keys();
        self.world.last_reads().extend(keys);
        self.world.enter(Phase::Calm);
        let deadline = sim.elapsed() + CALM_MAX;
        while !self.down.is_empty() || !self.world.has_settled() {
            self.step(sim)?;
            if sim.elapsed() > deadline {
                return Err(format!("no agreement {CALM_MAX:?} after the last fault"));
            }
        }
        Ok(())
    }

    /// A millisecond; then whoever lost power dies, and whoever's time has come starts again.
    fn step(&mut self, sim: &mut turmoil::Sim<'_>) -> Result<(), String> {
        sim.step().map_err(|error| error.to_string())?;
        for id in 1..=self.world.members {
            if self.world.disk(id).is_cut() {
                self.count("power lost in a write");
                self.crash(sim, id, true);
            }
            if self.down.get(&id).is_some_and(|at| *at <= sim.elapsed()) {
                self.down.remove(&id);
                self.world.gone().remove(&id);
                self.story.push(format!("{:?} member {id} starts", sim.elapsed()));
                sim.bounce(name(id));
            }
        }
        Ok(())
    }

    fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    fn crash(&mut self, sim: &mut turmoil::Sim<'_>, id: MemberId, loses_power: bool) {
        if self.down.contains_key(&id) {
            return;
        }
        self.story.push(format!("{:?} member {id} dies, power lost: {loses_power}", sim.elapsed()));
        sim.crash(name(id));
        if loses_power {
            self.world.disk(id).lose_power();
        } else {
            self.world.gone().insert(id);
        }
        let away = Duration::from_millis(self.lives.random_range(5..1500));
        self.down.insert(id, sim.elapsed() + away);
    }

    /// The leader half of the time, else anybody.
    fn victim(&mut self) -> MemberId {
        let anybody = self.chance.random_range(1..=self.world.members);
        let wants_leader = self.chance.random_bool(0.5);
        match self.world.leader() {
            Some(leader) if wants_leader => leader,
            Some(_) | None => anybody,
        }
    }

    fn fault(&mut self, sim: &mut turmoil::Sim<'_>) {
        let members: Vec<MemberId> = (1..=self.world.members).collect();
        match self.chance.random_range(0..12) {
            0 | 1 => {
                self.count("member alone");
                let alone = self.victim();
                for other in members.into_iter().filter(|other| *other != alone) {
                    sim.partition(name(alone), name(other));
                }
            }
            2 => {
                self.count("split");
                let left: Vec<_> = members.iter().filter(|_| self.chance.random_bool(0.5)).copied().collect();
                for here in &left {
                    for there in members.iter().filter(|id| !left.contains(id)) {
                        sim.partition(name(*here), name(*there));
                    }
                }
            }
            3 => {
                self.count("one way cut");
                let from = self.victim();
                for to in members.into_iter().filter(|to| *to != from) {
                    sim.partition_oneway(name(from), name(to));
                }
            }
            4 => {
                self.count("member killed");
                let id = self.victim();
                self.crash(sim, id, false);
            }
            5 | 6 => {
                self.count("member lost power");
                let id = self.victim();
                self.crash(sim, id, true);
            }
            7 | 8 => {
                self.count("all lost power");
                members.into_iter().for_each(|id| self.crash(sim, id, true));
            }
            9 => {
                self.count("some lost power");
                for id in members {
                    if self.chance.random_bool(0.6) {
                        self.crash(sim, id, true);
                    }
                }
            }
            _ => {
                self.count("mended");
                self.mend(sim);
            }
        }
        // A majority that can talk comes back often enough for clients to get anywhere.
        if self.chance.random_bool(0.3) {
            self.mend(sim);
        }
    }

    fn mend(&mut self, sim: &mut turmoil::Sim<'_>) {
        for here in 1..=self.world.members {
            for there in here + 1..=self.world.members {
                sim.repair(name(here), name(there));
                sim.repair_oneway(name(here), name(there));
                sim.repair_oneway(name(there), name(here));
            }
        }
    }
}
