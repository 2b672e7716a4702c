//! The lettered laws of [`crate::solve`], on random problems.

use model::{PortRange, PortRanges};
use proptest::prelude::*;

use crate::{share::Share, *};

fn ports() -> impl Strategy<Value = PortRanges> {
    prop::collection::btree_set(1..12u32, 0..8).prop_map(|ports| {
        PortRanges::new(ports.into_iter().map(|port| PortRange::new(port, port).unwrap()).collect()).unwrap()
    })
}

fn amounts(max: u64) -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0..=max, 2)
}

fn agent() -> impl Strategy<Value = Agent> {
    let hold = prop::option::weighted(0.15, Just(Hold::Deactivated));
    (amounts(12), ports(), hold).prop_map(|(free, ports, hold)| Agent { free, ports, hold })
}

fn demand() -> impl Strategy<Value = Demand> {
    let allowed = prop::option::weighted(0.3, prop::collection::btree_set(0..6usize, 0..6));
    let ports = prop_oneof![4 => Just(PortRanges::default()), 1 => ports()];
    (amounts(4), ports, 0..8u32, allowed).prop_map(|(shape, ports, count, allowed)| Demand {
        shape,
        ports,
        count,
        allowed: allowed.map(|agents| agents.into_iter().collect()),
    })
}

fn framework() -> impl Strategy<Value = Framework> {
    let appetite = prop_oneof![
        1 => Just(Appetite::Nothing),
        2 => Just(Appetite::Unlimited),
        6 => prop::collection::vec(demand(), 0..3).prop_map(Appetite::Stated),
    ];
    let filter = (amounts(8), ports()).prop_map(|(refused, ports)| Filter { refused, ports });
    let filters = prop::collection::btree_map(0..6usize, filter, 0..3);
    (0..3usize, amounts(6), appetite, filters).prop_map(|(role, allocated, appetite, filters)| Framework {
        role,
        allocated,
        appetite,
        filters,
    })
}

fn problem() -> impl Strategy<Value = Problem> {
    (
        prop::collection::vec(agent(), 0..6),
        prop::collection::vec(1..4u64, 3),
        prop::collection::vec(framework(), 0..6),
        amounts(5),
        prop_oneof![9 => Just(100usize), 1 => 0..4usize],
    )
        .prop_map(|(agents, weights, frameworks, past, offers_max)| {
            let mut roles: Vec<Role> = weights
                .iter()
                .map(|weight| Role { weight_milli: weight * 500, allocated: past.clone() })
                .collect();
            let mut total = past.iter().map(|past| past * 3).collect::<Vec<u64>>();
            for framework in &frameworks {
                plus(&mut roles[framework.role].allocated, &framework.allocated);
                plus(&mut total, &framework.allocated);
            }
            for agent in &agents {
                plus(&mut total, &agent.free);
            }
            Problem { total, agents, roles, frameworks, offer_min: vec![1, 1], offers_max }
        })
}

fn plus(sum: &mut [u64], more: &[u64]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

fn covers(have: &[u64], need: &[u64]) -> bool {
    have.iter().zip(need).all(|(have, need)| have >= need)
}

/// The problem in which the offers have been made.
fn after(problem: &Problem, solution: &Solution) -> Problem {
    let mut after = problem.clone();
    for offer in &solution.offers {
        let agent = &mut after.agents[offer.agent];
        for (free, amount) in agent.free.iter_mut().zip(&offer.amounts) {
            *free = free.checked_sub(*amount).expect("(f) an agent gave more than it had");
        }
        assert!(agent.ports.contains(&offer.ports), "(f) an agent gave ports that it had not");
        agent.ports = agent.ports.difference(&offer.ports);
        let framework = &mut after.frameworks[offer.framework];
        plus(&mut framework.allocated, &offer.amounts);
        plus(&mut after.roles[framework.role].allocated, &offer.amounts);
    }
    let missing = |who: usize, number: usize| {
        solution.held_back.iter().find_map(|held| match &held.why {
            Why::Unmet { demand: Some((demand, count)), .. }
                if held.who == Who::Framework(who) && *demand == number =>
            {
                Some(*count)
            }
            _ => None,
        })
    };
    for (who, framework) in after.frameworks.iter_mut().enumerate() {
        if let Appetite::Stated(demands) = &mut framework.appetite {
            for (number, demand) in demands.iter_mut().enumerate() {
                demand.count = missing(who, number).unwrap_or(0);
            }
        }
    }
    after
}

/// Whether a framework could take a slice of this agent.
fn could_take(problem: &Problem, framework: &Framework, place: usize) -> bool {
    let agent = &problem.agents[place];
    let filter = framework.filters.get(&place);
    if agent.hold.is_some() {
        return false;
    }
    match &framework.appetite {
        Appetite::Nothing => false,
        Appetite::Unlimited => {
            let is_declined =
                |filter: &Filter| covers(&filter.refused, &agent.free) && filter.ports.contains(&agent.ports);
            covers(&agent.free, &problem.offer_min) && !filter.is_some_and(is_declined)
        }
        Appetite::Stated(demands) => demands.iter().any(|demand| {
            let is_declined = |filter: &Filter| {
                covers(&filter.refused, &demand.shape) && filter.ports.count() >= demand.ports.count()
            };
            let is_something = !demand.ports.is_empty() || demand.shape.iter().any(|amount| *amount > 0);
            demand.count > 0
                && is_something
                && demand.allowed.as_ref().is_none_or(|allowed| allowed.contains(place))
                && covers(&agent.free, &demand.shape)
                && agent.ports.count() >= demand.ports.count()
                && !filter.is_some_and(is_declined)
        }),
    }
}

/// The same by brute force: look at everybody, give the poorest one slice, look again.
fn brute_force(problem: &Problem) -> Vec<(usize, usize, Vec<u64>)> {
    let mut problem = problem.clone();
    let mut given: Vec<(usize, usize, Vec<u64>)> = Vec::new();
    loop {
        let candidates = problem.frameworks.iter().enumerate().filter(|(_, framework)| {
            (0..problem.agents.len()).any(|agent| could_take(&problem, framework, agent))
        });
        let poorest = candidates.min_by_key(|(place, framework)| {
            let role = &problem.roles[framework.role];
            (
                Share::dominant(&role.allocated, &problem.total, role.weight_milli),
                framework.role,
                Share::dominant(&framework.allocated, &problem.total, 1000),
                *place,
            )
        });
        let Some((who, _)) = poorest else { return given };
        let (agent, slice, ports, number) = next_slice(&problem, who);
        let framework = &mut problem.frameworks[who];
        if let (Appetite::Stated(demands), Some(number)) = (&mut framework.appetite, number) {
            demands[number].count -= 1;
        }
        plus(&mut framework.allocated, &slice);
        plus(&mut problem.roles[framework.role].allocated, &slice);
        let room = &mut problem.agents[agent];
        room.free.iter_mut().zip(&slice).for_each(|(free, amount)| *free -= amount);
        room.ports = room.ports.difference(&ports);
        match given.iter_mut().find(|(framework, place, _)| (*framework, *place) == (who, agent)) {
            Some((_, _, amounts)) => plus(amounts, &slice),
            None => given.push((who, agent, slice)),
        }
    }
}

/// Agents in the order in which a framework walks along them.
fn way(problem: &Problem, who: usize) -> impl Iterator<Item = usize> {
    let agents = problem.agents.len();
    let start = who * agents / problem.frameworks.len();
    (0..agents).map(move |step| (start + step) % agents)
}

fn next_slice(problem: &Problem, who: usize) -> (usize, Vec<u64>, PortRanges, Option<usize>) {
    let framework = &problem.frameworks[who];
    let Appetite::Stated(demands) = &framework.appetite else {
        let agent = way(problem, who).find(|agent| could_take(problem, framework, *agent)).unwrap();
        let room = &problem.agents[agent];
        return (agent, room.free.clone(), room.ports.clone(), None);
    };
    for (number, demand) in demands.iter().enumerate() {
        let appetite = Appetite::Stated(vec![demand.clone()]);
        let alone = Framework { appetite, ..framework.clone() };
        let Some(agent) = way(problem, who).find(|agent| could_take(problem, &alone, *agent)) else {
            continue;
        };
        let free = &problem.agents[agent].ports;
        let ports = if free.contains(&demand.ports) {
            demand.ports.clone()
        } else {
            free.lowest(demand.ports.count()).unwrap()
        };
        return (agent, demand.shape.clone(), ports, Some(number));
    }
    panic!("a candidate could take nothing");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// (a) Each slice goes to the poorest who can take one.
    #[test]
    fn a_fair(mut problem in problem()) {
        problem.offers_max = usize::MAX;
        let solution = solve(&problem);
        let given: Vec<_> =
            solution.offers.iter().map(|offer| (offer.framework, offer.agent, offer.amounts.clone())).collect();
        prop_assert_eq!(given, brute_force(&problem));
    }

    /// (b) In the end nobody could take one more slice.
    #[test]
    fn b_full(mut problem in problem()) {
        problem.offers_max = usize::MAX;
        let after = after(&problem, &solve(&problem));
        for (who, framework) in after.frameworks.iter().enumerate() {
            for place in 0..after.agents.len() {
                prop_assert!(!could_take(&after, framework, place), "framework {} could take of agent {}", who, place);
            }
        }
    }

    /// (c) The same problem has the same solution; once its offers are made, there is nothing more to offer.
    #[test]
    fn c_stable(mut problem in problem()) {
        prop_assert_eq!(solve(&problem), solve(&problem));
        problem.offers_max = usize::MAX;
        let after = after(&problem, &solve(&problem));
        prop_assert_eq!(solve(&after).offers, []);
    }

    /// (d) Whoever got less than it could use, and every agent that was offered to nobody, is told why.
    #[test]
    fn d_explained(problem in problem()) {
        let solution = solve(&problem);
        let is_told = |who: Who| solution.held_back.iter().any(|held| held.who == who);
        for place in 0..problem.agents.len() {
            let is_offered = solution.offers.iter().any(|offer| offer.agent == place);
            prop_assert_eq!(is_told(Who::Agent(place)), !is_offered);
        }
        for (who, framework) in problem.frameworks.iter().enumerate() {
            match &framework.appetite {
                Appetite::Nothing | Appetite::Unlimited => prop_assert!(is_told(Who::Framework(who))),
                Appetite::Stated(_) => {}
            }
        }
        for held in &solution.held_back {
            if let Why::Unmet { held, excluded, too_small, declined, .. } = held.why {
                let agents = usize::try_from(held + excluded + too_small + declined).unwrap();
                prop_assert_eq!(agents, problem.agents.len(), "every agent has one reason");
            }
        }
    }

    /// (e) Nobody is offered more than it asked for, and what it misses is counted.
    #[test]
    fn e_sliced(mut problem in problem()) {
        problem.offers_max = usize::MAX;
        let solution = solve(&problem);
        let after = after(&problem, &solution);
        for (who, (before, after)) in problem.frameworks.iter().zip(&after.frameworks).enumerate() {
            let mut got = vec![0; 2];
            for offer in solution.offers.iter().filter(|offer| offer.framework == who) {
                plus(&mut got, &offer.amounts);
            }
            match (&before.appetite, &after.appetite) {
                (Appetite::Stated(wanted), Appetite::Stated(missing)) => {
                    let mut met = vec![0; 2];
                    for (wanted, missing) in wanted.iter().zip(missing) {
                        let units = u64::from(wanted.count - missing.count);
                        plus(&mut met, &wanted.shape.iter().map(|amount| amount * units).collect::<Vec<_>>());
                    }
                    prop_assert_eq!(got, met);
                }
                (Appetite::Nothing, _) => prop_assert_eq!(got, [0, 0]),
                _ => {}
            }
        }
    }

    /// (f) The offers of an agent never add up to more than it has free, and no port is offered twice.
    #[test]
    fn f_conserved(problem in problem()) {
        let solution = solve(&problem);
        let after = after(&problem, &solution);
        prop_assert!(solution.offers.len() <= problem.offers_max);
        for (place, (before, after)) in problem.agents.iter().zip(&after.agents).enumerate() {
            let offers = solution.offers.iter().filter(|offer| offer.agent == place);
            let offered: u64 = offers.map(|offer| offer.ports.count()).sum();
            prop_assert_eq!(offered + after.ports.count(), before.ports.count());
        }
        let mut pairs: Vec<_> = solution.offers.iter().map(|offer| (offer.framework, offer.agent)).collect();
        pairs.sort_unstable();
        pairs.dedup();
        prop_assert_eq!(pairs.len(), solution.offers.len(), "two offers for one pair");
    }
}

/// Tiny shapes on huge agents must not make a round long.
#[test]
fn a_round_is_short_however_small_the_shapes() {
    let huge = Agent { free: vec![1 << 30, 1 << 36], ..Agent::default() };
    let tiny = Demand { shape: vec![1, 1], ports: PortRanges::default(), count: u32::MAX, allowed: None };
    let framework = || Framework {
        allocated: vec![0, 0],
        appetite: Appetite::Stated(vec![tiny.clone()]),
        ..Framework::default()
    };
    let problem = Problem {
        total: vec![1 << 30, 1 << 36],
        agents: vec![huge],
        roles: vec![Role { weight_milli: 1000, allocated: vec![0, 0] }],
        frameworks: vec![framework(), framework()],
        offer_min: vec![1, 1],
        offers_max: 10,
    };
    let offers = solve(&problem).offers;
    let (a, b) = (offers[0].amounts[0], offers[1].amounts[0]);
    assert_eq!(a + b, 1 << 30);
    assert!(a.abs_diff(b) <= (1 << 30) / 64, "{a} and {b} are not fair enough");
}
