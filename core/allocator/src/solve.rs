//! Progressive filling: the poorest takes the next slice, until nobody can take any more.
//!
//! ## Design
//!
//! Properties, each with a test of its letter:
//!
//! - **(a) fair**: each slice goes to the role with the least weighted dominant share among those that can
//!   take one, and within it to the framework with the least dominant share; ties go by place.
//! - **(b) full**: in the end no framework could take one more slice of any agent.
//! - **(c) stable**: the same problem has the same solution, and the problem with the offers counted as
//!   offered has none.
//! - **(d) explained**: whoever could use more is told why it gets no more, and an agent that was offered
//!   to nobody has a reason too.
//! - **(e) sliced**: nobody is offered more than it asked for.
//! - **(f) conserved**: the offers of an agent never add up to more than it has free.
//!
//! A slice is one unit of a stated demand, or all that an agent has free for a framework that stated none.
//! What an agent has free only shrinks while a problem is solved, so an agent that once had no slice for a
//! demand never has one later: each demand walks the agents once, in order of place, wrapping around.
//! That fills one agent after the other. Frameworks start spread out, so that each gets few large offers
//! rather than many small ones: 1 000 frameworks with 640 000 slices on 10 000 agents need some ten thousand
//! offers so, and 640 000 if all started at the same agent.
//! Where several compete for an agent that holds hundreds of units, a turn is a 64th of them: given up is
//! fairness below that grain, won is that tiny shapes can't make a round long.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use model::PortRanges;

use crate::{
    problem::{Appetite, Demand, Framework, HeldBack, Offer, Problem, Solution, Who, Why},
    share::Share,
};

/// A turn gives at most this part of what an agent holds, where several compete.
const TURN_PARTS: u64 = 64;

/// Decides who is offered what.
pub fn solve(problem: &Problem) -> Solution {
    let mut round = Round::new(problem);
    while let Some(turn) = round.poorest() {
        let outcome = round.take_turn(turn.framework);
        round.end_turn(turn, outcome);
    }
    round.solution()
}

/// One problem being solved.
struct Round<'a> {
    problem: &'a Problem,
    rooms: Vec<Room>,
    seats: Vec<Seat>,
    roles: Vec<RoleSeat>,
    /// Roles that still have a framework that may take something, poorest first.
    poorest_roles: BinaryHeap<Reverse<(Share, usize)>>,
    /// How many frameworks may still take something.
    hungry: usize,
    offers: Vec<Offer>,
    offer_of: BTreeMap<(usize, usize), usize>,
    held_back: Vec<HeldBack>,
}

/// What an agent still has free.
struct Room {
    free: Vec<u64>,
    ports: PortRanges,
    is_offered: bool,
}

/// Where a framework stands.
struct Seat {
    allocated: Vec<u64>,
    walks: Vec<Walk>,
}

/// One demand's way along the agents.
#[derive(Default)]
struct Walk {
    /// Units that are still wanted.
    wanted: u64,
    /// The agent where it began; each framework has its own, so that they don't all nibble at the same.
    start: usize,
    /// So many agents, from the start on, have no slice for it any more.
    passed: usize,
    held: u32,
    excluded: u32,
    too_small: u32,
    declined: u32,
}

struct RoleSeat {
    allocated: Vec<u64>,
    /// Its frameworks that may take something, poorest first.
    poorest: BinaryHeap<Reverse<(Share, usize)>>,
}

struct Turn {
    role: usize,
    framework: usize,
}

enum Outcome {
    Took,
    /// No agent is left for it.
    Done,
    OffersFull,
}

impl<'a> Round<'a> {
    fn new(problem: &'a Problem) -> Self {
        let room = |agent: &crate::problem::Agent| Room {
            free: agent.free.clone(),
            ports: agent.ports.clone(),
            is_offered: false,
        };
        let role = |role: &crate::problem::Role| RoleSeat {
            allocated: role.allocated.clone(),
            poorest: BinaryHeap::new(),
        };
        let seat = |(place, framework): (usize, &Framework)| {
            let start = place * problem.agents.len() / problem.frameworks.len();
            Seat {
                allocated: framework.allocated.clone(),
                walks: match &framework.appetite {
                    Appetite::Nothing => Vec::new(),
                    Appetite::Unlimited => vec![Walk { wanted: u64::MAX, start, ..Walk::default() }],
                    Appetite::Stated(demands) => {
                        demands.iter().map(|demand| Walk::new(demand, start)).collect()
                    }
                },
            }
        };
        let mut round = Self {
            problem,
            rooms: problem.agents.iter().map(room).collect(),
            seats: problem.frameworks.iter().enumerate().map(seat).collect(),
            roles: problem.roles.iter().map(role).collect(),
            poorest_roles: BinaryHeap::new(),
            hungry: 0,
            offers: Vec::new(),
            offer_of: BTreeMap::new(),
            held_back: Vec::new(),
        };
        round.line_up();
        round
    }

    fn line_up(&mut self) {
        for (place, framework) in self.problem.frameworks.iter().enumerate() {
            if matches!(framework.appetite, Appetite::Nothing) {
                self.held_back.push(HeldBack { who: Who::Framework(place), why: Why::Suppressed });
                continue;
            }
            let share = Share::dominant(&framework.allocated, &self.problem.total, 1000);
            if let Some(role) = self.roles.get_mut(framework.role) {
                role.poorest.push(Reverse((share, place)));
                self.hungry += 1;
            }
        }
        for role in 0..self.roles.len() {
            self.line_up_role(role);
        }
    }

    /// Puts a role back in line, unless none of its frameworks may take anything.
    fn line_up_role(&mut self, place: usize) {
        let Some(seat) = self.roles.get(place).filter(|seat| !seat.poorest.is_empty()) else { return };
        let weight = self.problem.roles.get(place).map_or(1000, |role| role.weight_milli);
        let share = Share::dominant(&seat.allocated, &self.problem.total, weight);
        self.poorest_roles.push(Reverse((share, place)));
    }

    /// Whose turn it is.
    fn poorest(&mut self) -> Option<Turn> {
        let Reverse((_, role)) = self.poorest_roles.pop()?;
        let Reverse((_, framework)) = self.roles.get_mut(role)?.poorest.pop()?;
        Some(Turn { role, framework })
    }

    fn end_turn(&mut self, turn: Turn, outcome: Outcome) {
        match outcome {
            Outcome::Took => {
                if let Some((seat, role)) = self.seats.get(turn.framework).zip(self.roles.get_mut(turn.role))
                {
                    let share = Share::dominant(&seat.allocated, &self.problem.total, 1000);
                    role.poorest.push(Reverse((share, turn.framework)));
                }
            }
            Outcome::Done => {
                self.hungry -= 1;
                self.explain_framework(turn.framework);
            }
            Outcome::OffersFull => {
                self.hungry -= 1;
                self.held_back.push(HeldBack { who: Who::Framework(turn.framework), why: Why::OffersFull });
            }
        }
        self.line_up_role(turn.role);
    }

    /// Gives a framework its next slice, if there is one.
    fn take_turn(&mut self, place: usize) -> Outcome {
        let Some(framework) = self.problem.frameworks.get(place) else { return Outcome::Done };
        match &framework.appetite {
            Appetite::Nothing => Outcome::Done,
            Appetite::Unlimited => self.take_all(place, framework),
            Appetite::Stated(demands) => {
                for (number, demand) in demands.iter().enumerate() {
                    match self.take_units(place, framework, number, demand) {
                        Outcome::Done => {}
                        outcome @ (Outcome::Took | Outcome::OffersFull) => return outcome,
                    }
                }
                Outcome::Done
            }
        }
    }

    /// All that the next agent has free.
    fn take_all(&mut self, place: usize, framework: &Framework) -> Outcome {
        let Some(walk) = self.seats.get_mut(place).and_then(|seat| seat.walks.first_mut()) else {
            return Outcome::Done;
        };
        while let Some(at) = walk.next(self.rooms.len())
            && let Some((agent, room)) = self.problem.agents.get(at).zip(self.rooms.get(at))
        {
            let filter = framework.filters.get(&at);
            if agent.hold.is_some() {
                walk.held += 1;
            } else if !covers(&room.free, &self.problem.offer_min) {
                walk.too_small += 1;
            } else if filter.is_some_and(|filter| {
                covers(&filter.refused, &room.free) && filter.ports.contains(&room.ports)
            }) {
                walk.declined += 1;
            } else {
                let (slice, ports) = (room.free.clone(), room.ports.clone());
                return self.give(place, at, &slice, ports);
            }
            walk.passed += 1;
        }
        Outcome::Done
    }

    /// One unit of a demand, or a few where an agent has very many.
    fn take_units(&mut self, place: usize, framework: &Framework, number: usize, demand: &Demand) -> Outcome {
        let is_alone = self.hungry == 1;
        let Some(walk) = self.seats.get_mut(place).and_then(|seat| seat.walks.get_mut(number)) else {
            return Outcome::Done;
        };
        while walk.wanted > 0
            && let Some(at) = walk.next(self.rooms.len())
            && let Some((agent, room)) = self.problem.agents.get(at).zip(self.rooms.get(at))
        {
            let fitting = room.fitting(demand).min(walk.wanted);
            if agent.hold.is_some() {
                walk.held += 1;
            } else if demand.allowed.as_ref().is_some_and(|allowed| !allowed.contains(at)) {
                walk.excluded += 1;
            } else if fitting == 0 {
                walk.too_small += 1;
            } else if framework.filters.get(&at).is_some_and(|filter| {
                covers(&filter.refused, &demand.shape) && filter.ports.count() >= demand.ports.count()
            }) {
                walk.declined += 1;
            } else {
                let units = if is_alone { fitting } else { (fitting / TURN_PARTS).max(1) };
                let slice: Vec<u64> = demand.shape.iter().map(|amount| amount * units).collect();
                let Some(ports) = room.pick_ports(&demand.ports, units) else { return Outcome::Done };
                let outcome = self.give(place, at, &slice, ports);
                if let Outcome::Took = outcome
                    && let Some(walk) = self.seats.get_mut(place).and_then(|seat| seat.walks.get_mut(number))
                {
                    walk.wanted -= units;
                }
                return outcome;
            }
            walk.passed += 1;
        }
        Outcome::Done
    }

    /// Moves a slice from the agent into the framework's offer.
    fn give(&mut self, place: usize, agent: usize, slice: &[u64], ports: PortRanges) -> Outcome {
        let offer = match self.offer_of.get(&(place, agent)) {
            Some(offer) => *offer,
            None if self.offers.len() >= self.problem.offers_max => return Outcome::OffersFull,
            None => {
                let amounts = vec![0; slice.len()];
                self.offers.push(Offer { framework: place, agent, amounts, ports: PortRanges::default() });
                self.offer_of.insert((place, agent), self.offers.len() - 1);
                self.offers.len() - 1
            }
        };
        if let Some(room) = self.rooms.get_mut(agent) {
            take(&mut room.free, slice);
            room.ports = room.ports.difference(&ports);
            room.is_offered = true;
        }
        if let Some(offer) = self.offers.get_mut(offer) {
            add(&mut offer.amounts, slice);
            offer.ports = offer.ports.union(&ports);
        }
        if let Some(seat) = self.seats.get_mut(place) {
            add(&mut seat.allocated, slice);
        }
        let role = self.problem.frameworks.get(place).map_or(usize::MAX, |framework| framework.role);
        if let Some(role) = self.roles.get_mut(role) {
            add(&mut role.allocated, slice);
        }
        Outcome::Took
    }

    /// Says why a framework gets no more, unless it has all that it asked for.
    fn explain_framework(&mut self, place: usize) {
        let Some((framework, seat)) = self.problem.frameworks.get(place).zip(self.seats.get(place)) else {
            return;
        };
        let is_stated = matches!(framework.appetite, Appetite::Stated(_));
        for (number, walk) in seat.walks.iter().enumerate().filter(|(_, walk)| walk.wanted > 0) {
            let more = u32::try_from(walk.wanted).unwrap_or(u32::MAX);
            let why = Why::Unmet {
                demand: is_stated.then_some((number, more)),
                held: walk.held,
                excluded: walk.excluded,
                too_small: walk.too_small,
                declined: walk.declined,
            };
            self.held_back.push(HeldBack { who: Who::Framework(place), why });
        }
    }

    fn solution(mut self) -> Solution {
        let mut declined = vec![0; self.rooms.len()];
        for framework in &self.problem.frameworks {
            if framework.appetite == Appetite::Nothing {
                continue;
            }
            for agent in framework.filters.keys() {
                if let Some(count) = declined.get_mut(*agent) {
                    *count += 1;
                }
            }
        }
        let is_full = self.held_back.iter().any(|held| held.why == Why::OffersFull);
        let agents = self.problem.agents.iter().zip(&self.rooms).zip(declined);
        for (place, ((agent, room), declined)) in
            agents.enumerate().filter(|(_, ((_, room), _))| !room.is_offered)
        {
            let why = if let Some(hold) = agent.hold {
                Why::Held(hold)
            } else if !covers(&room.free, &self.problem.offer_min) {
                Why::NothingFree
            } else if is_full {
                Why::OffersFull
            } else {
                Why::NobodyWants { declined }
            };
            self.held_back.push(HeldBack { who: Who::Agent(place), why });
        }
        Solution { offers: self.offers, held_back: self.held_back }
    }
}

impl Walk {
    fn new(demand: &Demand, start: usize) -> Self {
        // A shape of nothing would fit without end.
        let is_empty = demand.ports.is_empty() && demand.shape.iter().all(|amount| *amount == 0);
        Self { wanted: if is_empty { 0 } else { u64::from(demand.count) }, start, ..Self::default() }
    }

    /// The agent that it looks at now, if it hasn't seen all.
    fn next(&self, agents: usize) -> Option<usize> {
        (self.passed < agents).then(|| (self.start + self.passed) % agents)
    }
}

impl Room {
    /// How many units of the demand fit.
    fn fitting(&self, demand: &Demand) -> u64 {
        let amounts = self.free.iter().zip(&demand.shape).filter(|(_, need)| **need > 0);
        let by_amounts = amounts.map(|(have, need)| have / need).min().unwrap_or(u64::MAX);
        if demand.ports.is_empty() {
            return by_amounts;
        }
        by_amounts.min(self.ports.count() / demand.ports.count())
    }

    /// The very ports of the shape if they are free, and the lowest for all else.
    fn pick_ports(&self, shape: &PortRanges, units: u64) -> Option<PortRanges> {
        if shape.is_empty() {
            return Some(PortRanges::default());
        }
        if !self.ports.contains(shape) {
            return self.ports.lowest(shape.count() * units);
        }
        let others = self.ports.difference(shape).lowest(shape.count() * (units - 1))?;
        Some(shape.union(&others))
    }
}

fn covers(have: &[u64], need: &[u64]) -> bool {
    have.iter().zip(need).all(|(have, need)| have >= need)
}

fn add(sum: &mut [u64], more: &[u64]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

fn take(sum: &mut [u64], less: &[u64]) {
    for (sum, less) in sum.iter_mut().zip(less) {
        *sum = sum.saturating_sub(*less);
    }
}
