//! What everyone in the world shares: true time, chance, what is to happen, the network and the record.
//!
//! Whatever happens is an entry of one queue, ordered by its moment and then by when it was put there. So a run
//! depends on nothing but its seed.

use std::collections::BTreeMap;

use leader::{Call, Reply};
use model::{Duration, Refusal};

use crate::{
    agent, chance::Chance, client, member, network::Network, parameters::Parameters, record::Record,
    time::Moment, world,
};

/// Somebody who can be cut off, stopped and started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    World,
    Member(usize),
    Agent(usize),
    Framework(usize),
    Operator,
}

/// How a run goes: first anything may happen, then nothing bad, and at last everyone wants everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Trouble,
    /// No faults, nothing new, and everything old ends.
    Calm,
    /// No faults, and more is wanted than there is.
    Fair,
    /// No faults, and everyone fills all there is with tasks that never end.
    Full,
}

/// What can happen to somebody.
#[derive(Debug)]
pub enum What {
    World(world::Wake),
    Member(member::Wake),
    Agent(agent::Wake),
    Client(client::Wake),
}

/// One entry of the queue.
#[derive(Debug)]
pub struct Happening {
    pub place: Place,
    /// Which of its lives it is meant for; absent: whichever it has then.
    pub life: Option<u32>,
    pub what: What,
}

/// What everyone shares.
pub struct Stage {
    pub now: Moment,
    pub chance: Chance,
    pub parameters: Parameters,
    pub network: Network,
    pub record: Record,
    pub trace: Trace,
    pub phase: Phase,
    /// How often each has been started.
    lives: BTreeMap<Place, u32>,
    queue: BTreeMap<(Moment, u64), Box<Happening>>,
    next: u64,
}

impl Stage {
    pub fn new(chance: Chance, parameters: Parameters, record: Record, trace: Trace) -> Self {
        Self {
            now: Moment::default(),
            chance,
            network: Network::default(),
            parameters,
            record,
            trace,
            phase: Phase::Trouble,
            lives: BTreeMap::new(),
            queue: BTreeMap::new(),
            next: 0,
        }
    }

    /// Lets something happen after `delay`, unless its place has been stopped until then.
    pub fn later(&mut self, place: Place, delay: Duration, what: What) {
        let life = Some(self.life(place));
        self.put(self.now + delay, Happening { place, life, what });
    }

    pub fn put(&mut self, at: Moment, happening: Happening) {
        self.next += 1;
        self.queue.insert((at, self.next), Box::new(happening));
    }

    /// Takes what happens next, and lets time pass until then.
    pub fn next(&mut self) -> Option<Happening> {
        let ((at, _), happening) = self.queue.pop_first()?;
        self.now = at;
        Some(*happening)
    }

    pub fn life(&self, place: Place) -> u32 {
        self.lives.get(&place).copied().unwrap_or(0)
    }

    /// Ends a life: nothing that was meant for it happens any more.
    pub fn end_life(&mut self, place: Place) {
        *self.lives.entry(place).or_insert(0) += 1;
    }

    /// Whether something that happens so many times in a thousand does now; never in the calm.
    pub fn misfortune(&mut self, thousandths: u64) -> bool {
        self.phase == Phase::Trouble && thousandths > 0 && self.chance.happens(thousandths)
    }

    /// How long something takes on its way: mostly little, now and then much.
    pub fn latency(&mut self) -> Duration {
        let most = self.parameters.latency;
        let drawn = self.chance.uneven_span(most / 64, most);
        if self.misfortune(5) { drawn * 20 } else { drawn }
    }

    /// One question to a member; it or its answer may be lost on the way.
    pub fn ask(&mut self, from: Place, member: usize, number: u64, call: Call) {
        let to = Place::Member(member);
        if self.network.is_cut(from, to) || self.misfortune(self.parameters.lost) {
            return;
        }
        let life = self.life(from);
        let copies = if self.misfortune(self.parameters.repeated) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.latency();
            let what = What::Member(member::Wake::Asked { from, life, number, call: Box::new(call.clone()) });
            self.put(self.now + delay, Happening { place: to, life: None, what });
        }
    }

    pub fn answer(
        &mut self,
        member: usize,
        to: Place,
        life: u32,
        number: u64,
        answer: Result<Reply, Refusal>,
    ) {
        if self.network.is_cut(Place::Member(member), to) || self.misfortune(self.parameters.lost) {
            return;
        }
        let delay = self.latency();
        let what = What::Client(client::Wake::Answered { number, member, answer: Box::new(answer) });
        self.put(self.now + delay, Happening { place: to, life: Some(life), what });
    }
}

/// Characters of a line of the trace: specs of tasks are long, and alike.
const TRACE_LINE_MAX: usize = 300;

/// What happened, as text, for whoever looks for the cause of a failure.
#[derive(Debug, Default)]
pub struct Trace {
    is_on: bool,
    pub text: String,
}

impl Trace {
    pub fn new(is_on: bool) -> Self {
        Self { is_on, text: String::new() }
    }

    /// Adds a line. The words are only made when somebody wants them.
    pub fn line(&mut self, now: Moment, words: impl FnOnce() -> String) {
        if !self.is_on {
            return;
        }
        let words = words();
        let end = words.char_indices().nth(TRACE_LINE_MAX).map_or(words.len(), |(end, _)| end);
        self.text += &format!("{now} {}\n", words.get(..end).unwrap_or_default());
    }
}
