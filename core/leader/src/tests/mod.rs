//! The machine in a small world: a log that applies at once, agents and frameworks that speak by script.

mod agents;
mod fleet;
mod offers;
mod resync;
mod run;
mod simulation;
mod streams;
mod usage;
mod version;
mod world;

use expect_test::Expect;

/// Plays a script and compares what came of it. Each line of the script is shown before its effects.
fn check(script: &str, expected: Expect) {
    let mut world = world::World::new();
    let mut shown = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        shown += &format!("> {line}\n");
        for line in world.play(line) {
            shown += &format!("  {line}\n");
        }
    }
    expected.assert_eq(&shown);
}
