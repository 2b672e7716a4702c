//! Who is offered what.
//!
//! Turns free resources and role shares into offers, and says why each agent and framework was held back.
//! Never reads a clock, talks to a framework, or changes the cluster.
//! Start at [`allocate`]; it translates, calls [`solve`] and translates back. The wanted properties are
//! lettered at [`solve`].

mod problem;
mod share;
mod solve;
#[cfg(test)]
mod tests;
mod translate;

pub use problem::{
    Agent, AgentSet, Appetite, Demand, Filter, Framework, HeldBack, Hold, Offer, Problem, Role, Solution,
    Who, Why,
};
pub use solve::solve;
pub use translate::{
    AgentView, Allocation, DemandView, Explanation, FilterView, FrameworkView, Inputs, NewOffer, RoleView,
    Subject, WishView, allocate,
};
