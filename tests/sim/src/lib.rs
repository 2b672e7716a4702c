//! The simulator: the real core under virtual time, in a world as hostile as it may be. One seed in, one verdict out.
//!
//! Members, agents and clients are thin hosts of the same code that the daemons run; network, disks, clocks,
//! machines and consensus are models. First faults, then calm with a deadline; checkers outside the system judge.
//! Start at [`run`], then `world.rs`; what must hold is in `checkers/`, the model of consensus in
//! `member/consensus.rs`, planted bugs in `mutants/`.

mod agent;
mod chance;
mod checkers;
mod client;
mod faults;
mod member;
mod network;
mod parameters;
mod record;
mod scale;
mod stage;
mod time;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use chance::Chance;
use model::Duration;
pub use parameters::Parameters;
pub use record::Violation;
pub use scale::{Failover, Scale};
use world::World;

/// What came of a run.
#[derive(Debug)]
pub struct Verdict {
    pub parameters: Parameters,
    /// How long it took, in the time of the world.
    pub lived: Duration,
    /// The part of it in which anything could go wrong.
    pub troubled: Duration,
    pub events: u64,
    pub entries: u64,
    pub violation: Option<Violation>,
    /// Empty unless it was wished for.
    pub trace: String,
}

/// Lives through one world.
pub fn run(seed: u64, is_traced: bool) -> Verdict {
    run_for(seed, is_traced, Duration::MAX)
}

/// The same, with no more trouble than this.
fn run_for(seed: u64, is_traced: bool, trouble: Duration) -> Verdict {
    let mut chance = Chance::new(seed);
    let mut parameters = Parameters::draw(&mut chance);
    parameters.trouble = parameters.trouble.min(trouble);
    let mut world = World::new(chance, parameters.clone(), is_traced);
    // An assertion of the core that fails is a verdict like any other.
    let panic = catch_unwind(AssertUnwindSafe(|| world.live())).err();
    if let Some(panic) = panic {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let why = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it said nothing");
        world.stage.record.fail(world.stage.now, "assertions", why.to_owned());
    }
    let lived = world.stage.now.since(time::Moment::default());
    Verdict {
        troubled: lived.min(parameters.trouble),
        parameters,
        lived,
        events: world.events,
        entries: world.entries(),
        violation: world.stage.record.violation.take(),
        trace: std::mem::take(&mut world.stage.trace.text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs that aren't built for speed take long.
    const SHORT: Duration = Duration::from_secs(120);

    /// The first that differs is shown, because the whole is long.
    #[test]
    fn the_same_seed_gives_the_same_trace() {
        for seed in [1, 2] {
            let (one, two) = (run_for(seed, true, SHORT), run_for(seed, true, SHORT));
            assert!(one.trace.len() > 10_000, "a trace tells more than {} bytes", one.trace.len());
            let differs = one.trace.lines().zip(two.trace.lines()).find(|(one, two)| one != two);
            assert_eq!(differs, None);
            assert_eq!(one.trace.len(), two.trace.len());
            assert_eq!(one.violation, two.violation);
        }
    }

    #[test]
    fn some_worlds_keep_every_invariant() {
        for seed in 1000..1004 {
            let verdict = run_for(seed, false, SHORT);
            assert_eq!(verdict.violation, None, "seed {seed}, {}", verdict.parameters);
            assert!(verdict.entries > 0);
        }
    }
}
