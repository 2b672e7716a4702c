//! What the solver sees: dense indices and plain numbers, no names.

use std::collections::BTreeMap;

use model::PortRanges;

/// One question: who is offered what now?
///
/// All amounts are vectors of the same length, one place for each kind of resource; ports are beside them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problem {
    /// What the whole cluster has, which shares are measured against.
    pub total: Vec<u64>,
    pub agents: Vec<Agent>,
    pub roles: Vec<Role>,
    pub frameworks: Vec<Framework>,
    /// The least of each kind that a framework without a stated demand is bothered with.
    pub offer_min: Vec<u64>,
    /// How many offers may be made.
    pub offers_max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Agent {
    /// Neither allocated nor offered.
    pub free: Vec<u64>,
    pub ports: PortRanges,
    /// Why it may not be offered at all.
    pub hold: Option<Hold>,
}

/// Why an agent may not be offered at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Unreachable,
    Deactivated,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Role {
    pub weight_milli: u64,
    /// To all its frameworks, past ones included: in use or offered.
    pub allocated: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Framework {
    pub role: usize,
    /// In use or offered.
    pub allocated: Vec<u64>,
    pub appetite: Appetite,
    /// By agent.
    pub filters: BTreeMap<usize, Filter>,
}

/// How much a framework could use beyond what it has been offered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Appetite {
    /// It asked for no offers.
    #[default]
    Nothing,
    /// It has said nothing: all that an agent has free.
    Unlimited,
    Stated(Vec<Demand>),
}

/// So many slices of this shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    pub shape: Vec<u64>,
    pub ports: PortRanges,
    pub count: u32,
    /// The agents that will do; absent: all.
    pub allowed: Option<AgentSet>,
}

/// What a framework doesn't want to be offered again from an agent: this, or less.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    pub refused: Vec<u64>,
    pub ports: PortRanges,
}

/// A set of agents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentSet(Vec<u64>);

impl AgentSet {
    pub fn insert(&mut self, agent: usize) {
        let word = agent / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(bits) = self.0.get_mut(word) {
            *bits |= 1 << (agent % 64);
        }
    }

    pub fn contains(&self, agent: usize) -> bool {
        self.0.get(agent / 64).is_some_and(|bits| bits & (1 << (agent % 64)) != 0)
    }
}

impl FromIterator<usize> for AgentSet {
    fn from_iter<I: IntoIterator<Item = usize>>(agents: I) -> Self {
        let mut set = Self::default();
        for agent in agents {
            set.insert(agent);
        }
        set
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Solution {
    /// At most one for each pair of framework and agent, in the order in which they began.
    pub offers: Vec<Offer>,
    pub held_back: Vec<HeldBack>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub framework: usize,
    pub agent: usize,
    pub amounts: Vec<u64>,
    pub ports: PortRanges,
}

/// Why somebody got nothing, or less than it could use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    pub who: Who,
    pub why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Agent(usize),
    Framework(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The agent may not be offered.
    Held(Hold),
    /// The agent has nothing free that anyone could use.
    NothingFree,
    /// Nobody who may have it wants what the agent has free; so many frameworks declined it for now.
    NobodyWants { declined: u32 },
    /// The framework asked for no offers.
    Suppressed,
    /// The framework could use more, but of the agents that were looked at, none is left for it.
    Unmet {
        /// Which of its demands, and how many more of it; absent: it stated none.
        demand: Option<(usize, u32)>,
        /// Agents that may not be offered.
        held: u32,
        /// Agents that lack an attribute that it asks for.
        excluded: u32,
        /// Agents that have too little free.
        too_small: u32,
        /// Agents that it declined for now.
        declined: u32,
    },
    /// As many offers were made as may be outstanding.
    OffersFull,
}
