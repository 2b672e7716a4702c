//! What can go wrong, one thing at a time; several may last together.

use model::Duration;

use crate::{
    stage::Place,
    world::{Wake, World},
};

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A member's process dies.
    MemberCrash,
    /// A member stands still for a while and goes on as if nothing had been.
    MemberPause,
    /// Two groups of members don't reach each other.
    MembersSplit,
    /// One member is heard and doesn't hear, or the other way round.
    OneWay,
    /// Another member is elected for no reason.
    Election,
    /// An agent's process dies; its machine goes on.
    AgentCrash,
    /// A machine is restarted.
    Reboot,
    /// An agent doesn't reach some of the members.
    AgentCut,
    /// No agent, or only a few, reach any member, for longer than they may be silent.
    SwitchDies,
    AgentPause,
    FrameworkCrash,
    FrameworkCut,
    /// Somebody's wall time is set.
    ClockJump,
    /// All members and agents lose their power at once.
    PowerLoss,
}

impl Kind {
    pub const ALL: [Self; 14] = [
        Self::MemberCrash,
        Self::MemberPause,
        Self::MembersSplit,
        Self::OneWay,
        Self::Election,
        Self::AgentCrash,
        Self::Reboot,
        Self::AgentCut,
        Self::SwitchDies,
        Self::AgentPause,
        Self::FrameworkCrash,
        Self::FrameworkCut,
        Self::ClockJump,
        Self::PowerLoss,
    ];
}

/// Lets one thing go wrong.
pub fn strike(world: &mut World) {
    let weights = world.stage.parameters.weights;
    let mut drawn = world.stage.chance.below(weights.iter().sum());
    for (kind, weight) in Kind::ALL.into_iter().zip(weights) {
        if drawn < weight {
            world.stage.trace.line(world.stage.now, || format!("fault: {kind:?}"));
            return inflict(kind, world);
        }
        drawn -= weight;
    }
}

fn inflict(kind: Kind, world: &mut World) {
    let (members, agents) = (world.members.len(), world.agents.len());
    let frameworks = world.frameworks.len();
    let chance = &mut world.stage.chance;
    let long = chance.uneven_span(Duration::from_millis(100), Duration::from_secs(120));
    match kind {
        Kind::MemberCrash => {
            let number = chance.place(members);
            let is_sudden = chance.happens(500);
            stop_member(number, is_sudden, long, world);
        }
        Kind::MemberPause => pause(Place::Member(chance.place(members)), long / 4, world),
        Kind::AgentPause => pause(Place::Agent(chance.place(agents)), long / 2, world),
        Kind::MembersSplit => {
            let sides: Vec<bool> = (0..members).map(|_| chance.happens(500)).collect();
            let mut cuts = Vec::new();
            for (one, side) in sides.iter().enumerate() {
                let others = sides.iter().enumerate().filter(|(_, other)| *other != side);
                cuts.extend(others.map(|(other, _)| (Place::Member(one), Place::Member(other))));
            }
            cut(cuts, long, world);
        }
        Kind::OneWay => {
            let one = Place::Member(chance.place(members));
            let is_deaf = chance.happens(500);
            let others = (0..members).map(Place::Member).filter(|other| *other != one);
            let cuts = others.map(|other| if is_deaf { (other, one) } else { (one, other) }).collect();
            cut(cuts, long, world);
        }
        Kind::Election => world.elect(),
        Kind::AgentCrash => {
            let number = chance.place(agents);
            stop_agent(number, false, long, world);
        }
        Kind::Reboot => {
            let number = chance.place(agents);
            stop_agent(number, true, long, world);
        }
        Kind::AgentCut => {
            let agent = Place::Agent(chance.place(agents));
            cut_off(agent, long, world);
        }
        Kind::SwitchDies => {
            let often = *chance.one_of(&[700, 1000]).unwrap_or(&1000);
            let behind: Vec<_> = (0..agents).filter(|_| chance.happens(often)).map(Place::Agent).collect();
            let ways = |agent| (0..members).map(Place::Member).flat_map(move |m| [(agent, m), (m, agent)]);
            cut(
                behind.into_iter().flat_map(ways).collect(),
                long * 2 + world.stage.parameters.agent_timeout,
                world,
            );
        }
        Kind::FrameworkCut => {
            let framework = Place::Framework(chance.place(frameworks));
            cut_off(framework, long, world);
        }
        Kind::FrameworkCrash => {
            let number = chance.place(frameworks);
            if let Some(framework) = world.frameworks.get_mut(number) {
                framework.crash(&mut world.stage);
            }
            world.later(long, Wake::Restart(Place::Framework(number)));
        }
        Kind::ClockJump => {
            // Up to more than a year.
            let far = chance.uneven_span(Duration::from_millis(1), Duration::from_secs(40_000_000));
            let far = i64::try_from(far.as_micros()).unwrap_or(0);
            let by = if chance.happens(500) { far } else { -far };
            if chance.happens(500) {
                let number = chance.place(members);
                if let Some(member) = world.members.get_mut(number) {
                    member.clock.offset = by;
                }
            } else {
                let number = chance.place(agents);
                if let Some(agent) = world.agents.get_mut(number) {
                    agent.clock.offset = by;
                }
            }
        }
        Kind::PowerLoss => {
            for number in 0..members {
                let delay = world.stage.chance.span(Duration::from_secs(1), Duration::from_secs(20));
                stop_member(number, true, delay, world);
            }
            for number in 0..agents {
                let delay = world.stage.chance.span(Duration::from_secs(1), Duration::from_secs(20));
                stop_agent(number, true, delay, world);
            }
        }
    }
}

fn stop_member(number: usize, is_sudden: bool, long: Duration, world: &mut World) {
    if let Some(member) = world.members.get_mut(number) {
        member.crash(&mut world.stage, is_sudden);
    }
    world.later(long, Wake::Restart(Place::Member(number)));
}

fn stop_agent(number: usize, is_power_gone: bool, long: Duration, world: &mut World) {
    if let Some(agent) = world.agents.get_mut(number) {
        agent.crash(&mut world.stage, is_power_gone);
    }
    world.later(long, Wake::Restart(Place::Agent(number)));
}

fn pause(place: Place, long: Duration, world: &mut World) {
    // A pause is neither cut short nor made longer: what waits for its end would come in another order.
    let now = world.stage.now;
    if world.paused.get(&place).is_none_or(|until| *until <= now) {
        world.paused.insert(place, now + long);
    }
}

/// Somebody reaches no member, or only some of them, or isn't heard by them.
fn cut_off(place: Place, long: Duration, world: &mut World) {
    let mut cuts = Vec::new();
    let often = *world.stage.chance.one_of(&[300, 1000]).unwrap_or(&1000);
    for member in (0..world.members.len()).map(Place::Member) {
        if !world.stage.chance.happens(often) {
            continue;
        }
        match world.stage.chance.below(4) {
            0 => cuts.push((place, member)),
            1 => cuts.push((member, place)),
            _ => cuts.extend([(place, member), (member, place)]),
        }
    }
    cut(cuts, long, world);
}

fn cut(cuts: Vec<(Place, Place)>, long: Duration, world: &mut World) {
    for (from, to) in &cuts {
        world.stage.network.cut(*from, *to);
    }
    world.later(long, Wake::Heal(cuts));
}
