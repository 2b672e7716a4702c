//! The cluster version: raised when the daemon says that all members read the next one.

use cluster::{Answer, ClusterState, Command, Entry, VERSION_SUPPORTED, apply};
use model::{ClusterId, ClusterTime, Timestamp};

use crate::{Config, Effect, Input, Leader, ProposeError, Ticket, config::HOUSEKEEPING_INTERVAL};

struct Raising {
    leader: Leader,
    state: ClusterState,
}

impl Raising {
    /// A leader of a cluster that was just begun.
    fn of_new_cluster() -> Self {
        let mut state = ClusterState::new();
        let cluster = ClusterId::new("c1").unwrap();
        let command = Command::Initialize { cluster: cluster.clone() };
        let entry = Entry { at: Timestamp::EPOCH, counted: ClusterTime::default(), command };
        apply(&mut state, 1, &entry).answer.unwrap();
        Self { leader: Leader::new(Config::new(cluster), 1, &state, Timestamp::EPOCH), state }
    }

    /// The versions that are proposed after an input.
    fn after(&mut self, input: Option<Input>) -> Vec<(Ticket, u32)> {
        if let Some(input) = input {
            self.leader.handle(input, &self.state, Timestamp::EPOCH);
        }
        let effects = self.leader.settle(&self.state, Timestamp::EPOCH);
        let raised = effects.into_iter().filter_map(|effect| match effect {
            Effect::Propose { ticket, entry } => match entry.command {
                Command::RaiseVersion { version } => Some((ticket, version)),
                _ => None,
            },
            _ => None,
        });
        raised.collect()
    }
}

#[test]
fn nobody_raises_what_a_member_does_not_read() {
    let mut raising = Raising::of_new_cluster();
    assert_eq!(raising.after(None), []);
    assert_eq!(raising.after(Some(Input::Supported { version: 1 })), []);
    let supported = || Some(Input::Supported { version: VERSION_SUPPORTED });
    let proposed = raising.after(supported());
    let [(ticket, VERSION_SUPPORTED)] = proposed[..] else { panic!("{proposed:?}") };
    // Once is enough, and what failed is tried again when it is told again.
    assert_eq!(raising.after(supported()), []);
    let busy = Input::Answered { ticket, result: Err(ProposeError::Busy) };
    assert_eq!(raising.after(Some(busy)), []);
    let again = raising.after(supported());
    let [(ticket, VERSION_SUPPORTED)] = again[..] else { panic!("{again:?}") };
    let command = Command::RaiseVersion { version: VERSION_SUPPORTED };
    let entry = Entry { at: Timestamp::EPOCH, counted: ClusterTime::default(), command };
    apply(&mut raising.state, 2, &entry).answer.unwrap();
    let done = Input::Answered { ticket, result: Ok(Ok(Answer::Done)) };
    assert_eq!(raising.after(Some(done)), []);
    assert_eq!(raising.after(supported()), []);
}

#[test]
fn a_cluster_that_could_not_be_begun_is_begun_a_moment_later() {
    let state = ClusterState::new();
    let mut now = Timestamp::EPOCH;
    let mut leader = Leader::new(Config::new(ClusterId::new("c1").unwrap()), 1, &state, now);
    let begun = |leader: &mut Leader, now: Timestamp| {
        let effects = leader.settle(&state, now);
        let begun = effects.into_iter().filter_map(|effect| match effect {
            Effect::Propose { ticket, entry } => match entry.command {
                Command::Initialize { .. } => Some(ticket),
                _ => None,
            },
            _ => None,
        });
        begun.collect::<Vec<_>>()
    };
    for _ in 0..3 {
        let [ticket] = begun(&mut leader, now)[..] else { panic!("the cluster is not begun") };
        leader.handle(Input::Answered { ticket, result: Err(ProposeError::Busy) }, &state, now);
        now = now + HOUSEKEEPING_INTERVAL;
    }
    let [_under_way] = begun(&mut leader, now)[..] else { panic!("the cluster is not begun") };
    assert_eq!(begun(&mut leader, now + HOUSEKEEPING_INTERVAL), []);
}
