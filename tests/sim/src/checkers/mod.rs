//! One file for each invariant; each keeps its own history and trusts nobody's.

mod acknowledgements;
mod care;
pub mod fairness;
mod final_states;
mod hearing;
mod launch_once;
mod offers;
mod resources;
mod states_agree;
mod statuses;
mod survival;

use crate::{parameters::Parameters, record::Checker};

/// All of them.
pub fn all(parameters: &Parameters) -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(states_agree::StatesAgree::default()),
        Box::new(resources::ResourcesConserved::new(parameters)),
        Box::new(launch_once::LaunchOnce::default()),
        Box::new(acknowledgements::AcknowledgedIsKept::default()),
        Box::new(statuses::StatusesKept::default()),
        Box::new(final_states::FinalStatesStay::default()),
        Box::new(hearing::FrameworksHearAll::default()),
        Box::new(survival::TasksSurvive::new(parameters)),
        Box::new(care::OperatorsAreObeyed::default()),
        Box::new(offers::OffersOnce::new(parameters)),
    ]
}
