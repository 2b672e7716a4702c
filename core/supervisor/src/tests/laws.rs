//! The laws of the crate's header, over every interleaving that chance finds.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{agent, assignment, now, task, world::World};
use crate::{Action, Event, ProcessId, Supervisor};

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Laws (a), (b), (c), (d) and (f).
    #[test]
    fn every_task_ends_once_whatever_happens(steps in proptest::collection::vec(any::<(u8, u8)>(), 0..250)) {
        let mut world = World::new();
        world.step(19, 0);
        for (what, which) in steps {
            world.step(what, which);
        }
        world.calm();
    }

    /// Law (e), for a launch that fails after any number of actions.
    #[test]
    fn a_plan_followed_by_its_undo_is_nothing(done in 0usize..16) {
        let mut supervisor = Supervisor::new(agent());
        let mut plan = supervisor.handle(Event::Assigned { assignments: vec![assignment("w")] }, now());
        plan.extend(supervisor.handle(Event::Fetched { task_id: task("w") }, now()));
        let process = ProcessId { pid: 7, start_ticks: 1 };
        plan.extend(supervisor.handle(Event::Prepared { task_id: task("w"), process }, now()));
        let done: Vec<Action> = plan.into_iter().take(done).collect();
        let mut there = BTreeSet::new();
        for action in &done {
            apply(action, &mut there);
        }
        for action in done.iter().rev() {
            if let Some(undo) = action.undo() {
                prop_assert_eq!(undo.undo(), None, "an undo has no undo");
                apply(&undo, &mut there);
            }
        }
        prop_assert_eq!(there, BTreeSet::new());
    }
}

/// What an action leaves behind, by name.
fn apply(action: &Action, there: &mut BTreeSet<String>) {
    match action {
        Action::MakeSandbox { .. } => drop(there.insert("sandbox".to_owned())),
        Action::RemoveSandbox { .. } => drop(there.remove("sandbox")),
        Action::MakeCgroups { .. } => drop(there.insert("cgroups".to_owned())),
        Action::RemoveCgroups { .. } => {
            assert!(!there.contains("process"), "a cgroup with a process can't be removed");
            there.remove("cgroups");
        }
        Action::RegisterMeter { .. } => drop(there.insert("meter".to_owned())),
        Action::UnregisterMeter { .. } => drop(there.remove("meter")),
        Action::RegisterProcess { .. } => drop(there.insert("registered".to_owned())),
        Action::UnregisterProcess { .. } => drop(there.remove("registered")),
        Action::Fetch { .. } => drop(there.insert("fetching".to_owned())),
        Action::CancelFetch { .. } => drop(there.remove("fetching")),
        Action::Spawn { .. } => drop(there.insert("process".to_owned())),
        Action::KillAll { .. } => drop(there.remove("process")),
        // The record stays on purpose; what was told or begun stays so.
        Action::WriteRecord(_)
        | Action::Forget { .. }
        | Action::Release { .. }
        | Action::Adopt { .. }
        | Action::BeginChecks { .. }
        | Action::EndChecks { .. }
        | Action::Spare { .. }
        | Action::Terminate { .. }
        | Action::RemoveStrayCgroups { .. }
        | Action::RemoveStraySandbox { .. }
        | Action::Report(_) => {}
    }
}
