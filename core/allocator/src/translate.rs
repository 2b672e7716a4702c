//! From names to dense indices, and back.
//!
//! The inputs are what the leader sees, already judged by time: filters that ended are left out.

use std::{collections::BTreeMap, fmt};

use model::{AgentId, Amounts, Attribute, Attributes, FrameworkId, Resources, RoleName, ScalarName};

use crate::{
    problem::{Agent, Appetite, Demand, Filter, Framework, HeldBack, Hold, Offer, Problem, Role, Who, Why},
    solve::solve,
};

/// The least that a framework without a stated demand is bothered with: what the smallest useful task needs.
const OFFER_CPUS_MILLI_MIN: u64 = 10;
const OFFER_MEM_MIB_MIN: u64 = 32;

/// What the leader knows when it asks.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// What all agents of the cluster have together, also those that are not looked at now.
    pub total: &'a Amounts,
    /// Agents to look at: all of them, or those that changed.
    pub agents: Vec<AgentView<'a>>,
    /// Roles of the frameworks; one that is left out has weight 1 and nothing.
    pub roles: Vec<RoleView<'a>>,
    /// Frameworks that may be offered something.
    pub frameworks: Vec<FrameworkView<'a>>,
    /// How many offers may be made now.
    pub offers_max: usize,
}

#[derive(Debug, Clone)]
pub struct AgentView<'a> {
    pub agent: &'a AgentId,
    pub attributes: &'a Attributes,
    /// Neither allocated nor offered.
    pub free: Resources,
    /// Why it may not be offered at all.
    pub hold: Option<Hold>,
}

#[derive(Debug, Clone)]
pub struct RoleView<'a> {
    pub role: &'a RoleName,
    pub weight_milli: u64,
    /// To all its frameworks, past ones included: in use or offered.
    pub allocated: Amounts,
}

#[derive(Debug, Clone)]
pub struct FrameworkView<'a> {
    pub framework: &'a FrameworkId,
    pub role: &'a RoleName,
    /// In use or offered.
    pub allocated: Amounts,
    pub wish: WishView<'a>,
    pub filters: Vec<FilterView<'a>>,
}

/// How much a framework could use beyond what it has been offered.
#[derive(Debug, Clone)]
pub enum WishView<'a> {
    Nothing,
    /// It has said nothing.
    Unlimited,
    /// Less what outstanding offers hold.
    Stated(Vec<DemandView<'a>>),
}

/// So many tasks of this shape could be used. Of ports only the count is asked for, unless the very ports
/// of the shape are free.
#[derive(Debug, Clone)]
pub struct DemandView<'a> {
    pub shape: &'a Resources,
    pub count: u32,
    /// Only agents that have all of these.
    pub constraints: &'a [Attribute],
}

/// What a framework doesn't want to be offered again from an agent: this, or less.
#[derive(Debug, Clone)]
pub struct FilterView<'a> {
    pub agent: &'a AgentId,
    pub refused: &'a Resources,
}

/// What to offer, and why not more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allocation {
    pub offers: Vec<NewOffer>,
    pub held_back: Vec<Explanation>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOffer {
    pub framework: FrameworkId,
    pub role: RoleName,
    pub agent: AgentId,
    pub resources: Resources,
}

/// Why an agent was offered to nobody, or a framework got less than it could use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub subject: Subject,
    /// What is missing, for a framework with a stated demand.
    pub wanted: Option<Resources>,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Agent(AgentId),
    Framework(FrameworkId),
}

/// Decides what to offer to whom.
pub fn allocate(inputs: &Inputs<'_>) -> Allocation {
    let kinds = Kinds::of(inputs);
    let problem = kinds.translate(inputs);
    let solution = solve(&problem);
    let offers = solution.offers.into_iter().filter_map(|offer| kinds.offer(inputs, offer)).collect();
    let held_back = solution.held_back.into_iter().filter_map(|held| explanation(inputs, held)).collect();
    Allocation { offers, held_back }
}

/// Which kind of resource has which place in a vector: cpus, mem, disk, gpus, then the named ones.
struct Kinds<'a> {
    names: Vec<&'a ScalarName>,
}

impl<'a> Kinds<'a> {
    fn of(inputs: &'a Inputs<'_>) -> Self {
        let mut names: Vec<&ScalarName> = inputs.total.scalars.keys().collect();
        for agent in &inputs.agents {
            names.extend(agent.free.scalars.keys());
        }
        for framework in &inputs.frameworks {
            if let WishView::Stated(demands) = &framework.wish {
                for demand in demands {
                    names.extend(demand.shape.scalars.keys());
                }
            }
        }
        names.sort_unstable();
        names.dedup();
        Self { names }
    }

    fn translate(&self, inputs: &Inputs<'_>) -> Problem {
        let agents_by_id: BTreeMap<&AgentId, usize> =
            inputs.agents.iter().zip(0..).map(|(view, agent)| (view.agent, agent)).collect();
        let mut roles_by_name: BTreeMap<&RoleName, usize> = BTreeMap::new();
        let mut roles = Vec::new();
        for view in &inputs.roles {
            roles_by_name.insert(view.role, roles.len());
            roles.push(Role { weight_milli: view.weight_milli, allocated: self.amounts(&view.allocated) });
        }
        let mut frameworks = Vec::with_capacity(inputs.frameworks.len());
        for view in &inputs.frameworks {
            let role = *roles_by_name.entry(view.role).or_insert_with(|| {
                roles.push(Role { weight_milli: 1000, allocated: self.amounts(&Amounts::default()) });
                roles.len() - 1
            });
            let filters = view.filters.iter().filter_map(|filter| {
                let agent = *agents_by_id.get(filter.agent)?;
                let ports = filter.refused.ports.clone();
                Some((agent, Filter { refused: self.vector(filter.refused), ports }))
            });
            frameworks.push(Framework {
                role,
                allocated: self.amounts(&view.allocated),
                appetite: self.appetite(&view.wish, inputs),
                filters: filters.collect(),
            });
        }
        let agents = inputs.agents.iter().map(|view| Agent {
            free: self.vector(&view.free),
            ports: view.free.ports.clone(),
            hold: view.hold,
        });
        let offer_min = Resources {
            cpus_milli: OFFER_CPUS_MILLI_MIN,
            mem_mib: OFFER_MEM_MIB_MIN,
            ..Resources::default()
        };
        Problem {
            total: self.amounts(inputs.total),
            agents: agents.collect(),
            roles,
            frameworks,
            offer_min: self.vector(&offer_min),
            offers_max: inputs.offers_max,
        }
    }

    fn appetite(&self, wish: &WishView<'_>, inputs: &Inputs<'_>) -> Appetite {
        let demands = match wish {
            WishView::Nothing => return Appetite::Nothing,
            WishView::Unlimited => return Appetite::Unlimited,
            WishView::Stated(demands) => demands,
        };
        let demand = |view: &DemandView<'_>| Demand {
            shape: self.vector(view.shape),
            ports: view.shape.ports.clone(),
            count: view.count,
            allowed: (!view.constraints.is_empty()).then(|| {
                let fits = |agent: &AgentView<'_>| {
                    let mut constraints = view.constraints.iter();
                    constraints.all(|want| agent.attributes.get(&want.name) == Some(&want.value))
                };
                inputs
                    .agents
                    .iter()
                    .zip(0..)
                    .filter(|(agent, _)| fits(agent))
                    .map(|(_, agent)| agent)
                    .collect()
            }),
        };
        Appetite::Stated(demands.iter().map(demand).collect())
    }

    fn vector(&self, resources: &Resources) -> Vec<u64> {
        let Resources { cpus_milli, mem_mib, disk_mib, gpus, ports: _, scalars } = resources;
        let mut vector = vec![*cpus_milli, *mem_mib, *disk_mib, u64::from(*gpus)];
        vector.extend(self.names.iter().map(|name| scalars.get(*name).copied().unwrap_or(0)));
        vector
    }

    fn amounts(&self, amounts: &Amounts) -> Vec<u64> {
        let Amounts { cpus_milli, mem_mib, disk_mib, gpus, scalars } = amounts;
        let mut vector = vec![*cpus_milli, *mem_mib, *disk_mib, *gpus];
        vector.extend(self.names.iter().map(|name| scalars.get(*name).copied().unwrap_or(0)));
        vector
    }

    fn offer(&self, inputs: &Inputs<'_>, offer: Offer) -> Option<NewOffer> {
        let framework = inputs.frameworks.get(offer.framework)?;
        let agent = inputs.agents.get(offer.agent)?;
        let [cpus_milli, mem_mib, disk_mib, gpus, named @ ..] = offer.amounts.as_slice() else { return None };
        let named = self.names.iter().zip(named).filter(|(_, amount)| **amount > 0);
        Some(NewOffer {
            framework: framework.framework.clone(),
            role: framework.role.clone(),
            agent: agent.agent.clone(),
            resources: Resources {
                cpus_milli: *cpus_milli,
                mem_mib: *mem_mib,
                disk_mib: *disk_mib,
                // An offer is part of one agent, whose devices fit.
                gpus: u32::try_from(*gpus).ok()?,
                ports: offer.ports,
                scalars: named.map(|(name, amount)| ((*name).clone(), *amount)).collect(),
            },
        })
    }
}

fn explanation(inputs: &Inputs<'_>, held: HeldBack) -> Option<Explanation> {
    let HeldBack { who, why } = held;
    let (subject, wanted) = match who {
        Who::Agent(agent) => (Subject::Agent(inputs.agents.get(agent)?.agent.clone()), None),
        Who::Framework(framework) => {
            let view = inputs.frameworks.get(framework)?;
            let wanted = match (&view.wish, &why) {
                (WishView::Stated(demands), Why::Unmet { demand: Some((demand, _)), .. }) => {
                    demands.get(*demand).map(|demand| demand.shape.clone())
                }
                _ => None,
            };
            (Subject::Framework(view.framework.clone()), wanted)
        }
    };
    Some(Explanation { subject, wanted, why })
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(id) => write!(formatter, "agent {id}"),
            Self::Framework(id) => write!(formatter, "framework {id}"),
        }
    }
}

impl fmt::Display for Explanation {
    /// One line: `framework f held back: 2 more of cpus=1 mem=64MiB: of the agents 3 with too little free`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} held back: ", self.subject)?;
        match &self.why {
            Why::Held(Hold::Unreachable) => formatter.write_str("it does not answer"),
            Why::Held(Hold::Deactivated) => formatter.write_str("an operator took it out of use"),
            Why::NothingFree => formatter.write_str("it has too little free for any offer"),
            Why::NobodyWants { declined: 0 } => formatter.write_str("nobody wants what it has free"),
            Why::NobodyWants { declined } => {
                write!(formatter, "nobody wants what it has free; {declined} declined it for now")
            }
            Why::Suppressed => formatter.write_str("it asked for no offers"),
            Why::OffersFull => formatter.write_str("as many offers are outstanding as may be"),
            Why::Unmet { demand, held, excluded, too_small, declined } => {
                match (demand, &self.wanted) {
                    (Some((_, count)), Some(wanted)) => write!(formatter, "{count} more of {wanted}: ")?,
                    (Some(_) | None, _) => formatter.write_str("no agent is left for it: ")?,
                }
                let parts: Vec<String> = [
                    (too_small, "with too little free"),
                    (excluded, "without an attribute that it asks for"),
                    (declined, "declined for now"),
                    (held, "that may not be offered"),
                ]
                .into_iter()
                .filter(|(count, _)| **count > 0)
                .map(|(count, what)| format!("{count} {what}"))
                .collect();
                if parts.is_empty() {
                    return formatter.write_str("there is no agent");
                }
                write!(formatter, "of the agents {}", parts.join(", "))
            }
        }
    }
}
