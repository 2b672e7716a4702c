//! What each framework could use now, as it said itself.

use model::{PortRanges, Refusal, RefusalCode, Resources, limits};

use crate::messages::Demand;

/// How much a framework wants to be offered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Appetite {
    /// It has said nothing: whatever there is.
    #[default]
    Unlimited,
    /// No offers until it says otherwise.
    Suppressed,
    /// These, less what it has launched since it said so. Empty: nothing is wanted.
    Stated(Vec<Demand>),
}

impl Appetite {
    /// Takes what the framework states.
    ///
    /// Refuses (InvalidArgument) too many demands, and shapes that can't be.
    pub fn stated(demands: Vec<Demand>) -> Result<Self, Refusal> {
        if demands.len() > limits::DEMANDS_MAX {
            return Err(refuse(format!(
                "{} demands are stated; at most {} are allowed",
                demands.len(),
                limits::DEMANDS_MAX
            )));
        }
        for demand in &demands {
            if let Err(error) = demand.shape.check() {
                return Err(refuse(format!("the shape {} can't be: {error}", demand.shape)));
            }
            if demand.shape.is_empty() {
                return Err(refuse("a shape asks for nothing; name what one task needs".to_owned()));
            }
            if demand.constraints.len() > limits::ATTRIBUTES_MAX {
                return Err(refuse(format!(
                    "{} constraints stand in one demand; at most {} are allowed",
                    demand.constraints.len(),
                    limits::ATTRIBUTES_MAX
                )));
            }
        }
        Ok(Self::Stated(demands.into_iter().filter(|demand| demand.count > 0).collect()))
    }

    /// One task less is wanted: it is being launched. Answers the demand that it came from.
    pub fn launched(&mut self, resources: &Resources) -> Option<Demand> {
        let Self::Stated(demands) = self else { return None };
        let exact = demands.iter().position(|demand| is_same(&demand.shape, resources));
        let place =
            exact.or_else(|| demands.iter().position(|demand| take(&demand.shape, resources).is_some()))?;
        let demand = demands.get_mut(place)?;
        demand.count -= 1;
        let one = Demand { count: 1, ..demand.clone() };
        if demand.count == 0 {
            demands.remove(place);
        }
        Some(one)
    }

    /// What is wanted beyond offers that were made and not used yet.
    pub fn beyond<'a>(&self, offers: impl Iterator<Item = &'a Resources>) -> Self {
        let Self::Stated(demands) = self else { return self.clone() };
        let mut demands = demands.clone();
        for offer in offers {
            let mut left = offer.clone();
            for demand in &mut demands {
                while demand.count > 0
                    && let Some(rest) = take(&left, &demand.shape)
                {
                    left = rest;
                    demand.count -= 1;
                }
            }
        }
        demands.retain(|demand| demand.count > 0);
        Self::Stated(demands)
    }

    /// The launch came to nothing: the task is wanted again.
    pub fn not_launched(&mut self, one: Demand) {
        let Self::Stated(demands) = self else { return };
        let same = |demand: &&mut Demand| demand.shape == one.shape && demand.constraints == one.constraints;
        match demands.iter_mut().find(same) {
            Some(demand) => demand.count = demand.count.saturating_add(one.count),
            None => demands.push(one),
        }
    }
}

/// Whether tasks of both shapes need the same, whatever their ports are called.
fn is_same(one: &Resources, other: &Resources) -> bool {
    one.ports.count() == other.ports.count() && portless(one) == portless(other)
}

/// What is left after one slice, or `None` when it doesn't fit. Of ports only the number counts.
fn take(have: &Resources, slice: &Resources) -> Option<Resources> {
    let left = portless(have).minus(&portless(slice))?;
    if slice.ports.is_empty() {
        return Some(Resources { ports: have.ports.clone(), ..left });
    }
    let ports = if have.ports.contains(&slice.ports) {
        slice.ports.clone()
    } else {
        have.ports.lowest(slice.ports.count())?
    };
    Some(Resources { ports: have.ports.difference(&ports), ..left })
}

fn portless(resources: &Resources) -> Resources {
    Resources { ports: PortRanges::default(), ..resources.clone() }
}

fn refuse(why: String) -> Refusal {
    Refusal::new(RefusalCode::InvalidArgument, format!("can't set the demand: {why}"))
}
