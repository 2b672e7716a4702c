//! One file for each invariant; each keeps its own history and trusts nobody's.

mod acknowledgements;
mod agents_told;
mod care;
mod dead_switch;
mod ends_true;
pub mod fairness;
mod final_states;
mod graces;
mod hearing;
mod kept;
mod launch_once;
mod offers;
mod reconciliation;
mod registrations;
mod resources;
mod silence;
mod states_agree;
mod statuses;
mod suppression;
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
        Box::new(suppression::SuppressedIsLeftAlone::new(parameters)),
        Box::new(silence::OnlySilentAreUnreachable::new(parameters)),
        Box::new(dead_switch::DeadSwitchTakesFew::default()),
        Box::new(registrations::RegisteredAsTold::default()),
        Box::new(agents_told::AgentsAreToldOf::default()),
        Box::new(ends_true::EndsAreTrue::default()),
        Box::new(graces::GracesAreGiven::default()),
        Box::new(reconciliation::ReconciliationAnswers::default()),
        Box::new(kept::FinishedAreKept::new(parameters)),
    ]
}
