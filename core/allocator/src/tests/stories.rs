//! Stories: agents, roles and frameworks as text, and what is offered to whom.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use model::{
    AgentId, Amounts, Attribute, Attributes, FrameworkId, PortRange, PortRanges, Resources, RoleName,
    ScalarName,
};

use crate::*;

/// What a story tells, owned, so that the views can borrow from it.
#[derive(Default)]
struct Story {
    agents: Vec<(AgentId, Attributes, Resources, Option<Hold>)>,
    roles: Vec<(RoleName, u64, Amounts)>,
    frameworks: Vec<Teller>,
    offers_max: usize,
}

struct Teller {
    id: FrameworkId,
    role: RoleName,
    allocated: Amounts,
    wish: Wish,
    filters: Vec<(AgentId, Resources)>,
}

enum Wish {
    Nothing,
    Unlimited,
    Stated(Vec<(Resources, u32, Vec<Attribute>)>),
}

/// Reads `cpus=4 mem=1024 ports=31000-31009 licences=2`; what isn't a resource is left for others.
fn resources<'a>(words: impl IntoIterator<Item = &'a str>) -> Resources {
    let mut resources = Resources::default();
    for (name, value) in words.into_iter().filter_map(|word| word.split_once('=')) {
        match name {
            "cpus" => resources.cpus_milli = (value.parse::<f64>().unwrap() * 1000.0) as u64,
            "mem" => resources.mem_mib = value.parse().unwrap(),
            "disk" => resources.disk_mib = value.parse().unwrap(),
            "gpus" => resources.gpus = value.parse().unwrap(),
            "ports" => {
                let (first, last) = value.split_once('-').unwrap_or((value, value));
                let range = PortRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap();
                resources.ports = PortRanges::new(vec![range]).unwrap();
            }
            "licences" => {
                let name = ScalarName::new(name).unwrap();
                resources.scalars.insert(name, value.parse::<u64>().unwrap() * 1000);
            }
            _ => {}
        }
    }
    resources
}

fn attributes(words: &[&str]) -> Attributes {
    let pairs = words.iter().filter_map(|word| word.strip_prefix('@')?.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl Story {
    /// Lines: `agent a1 cpus=4 mem=1024 @zone=eu [deactivated|unreachable]`, `role web weight=2000 cpus=1`,
    /// `framework f role=web cpus=1 [suppressed]` (what it has), below it
    /// `wants 3 cpus=1 mem=64 @zone=eu` and `declined a1 cpus=4 mem=1024`, and `offers 1`.
    fn read(text: &str) -> Self {
        let mut story = Self { offers_max: 100, ..Self::default() };
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let pairs: BTreeMap<&str, &str> = words.iter().filter_map(|word| word.split_once('=')).collect();
            match words.as_slice() {
                [] => {}
                ["agent", id, rest @ ..] => {
                    let hold = rest.iter().find_map(|word| match *word {
                        "deactivated" => Some(Hold::Deactivated),
                        "unreachable" => Some(Hold::Unreachable),
                        _ => None,
                    });
                    let free = resources(rest.iter().copied());
                    story.agents.push((AgentId::new(id).unwrap(), attributes(rest), free, hold));
                }
                ["role", name, rest @ ..] => {
                    let weight = pairs.get("weight").map_or(1000, |text| text.parse().unwrap());
                    let allocated = Amounts::of(&resources(rest.iter().copied()));
                    story.roles.push((RoleName::new(name).unwrap(), weight, allocated));
                }
                ["framework", id, rest @ ..] => story.frameworks.push(Teller {
                    id: FrameworkId::new(id).unwrap(),
                    role: RoleName::new(pairs.get("role").unwrap_or(&"default")).unwrap(),
                    allocated: Amounts::of(&resources(rest.iter().copied())),
                    wish: if rest.contains(&"suppressed") { Wish::Nothing } else { Wish::Unlimited },
                    filters: Vec::new(),
                }),
                ["wants", count, rest @ ..] => {
                    let framework = story.frameworks.last_mut().unwrap();
                    let constraints =
                        attributes(rest).into_iter().map(|(name, value)| Attribute { name, value });
                    let demand =
                        (resources(rest.iter().copied()), count.parse().unwrap(), constraints.collect());
                    match &mut framework.wish {
                        Wish::Stated(demands) => demands.push(demand),
                        Wish::Nothing | Wish::Unlimited => framework.wish = Wish::Stated(vec![demand]),
                    }
                }
                ["declined", id, rest @ ..] => {
                    let framework = story.frameworks.last_mut().unwrap();
                    framework.filters.push((AgentId::new(id).unwrap(), resources(rest.iter().copied())));
                }
                ["offers", count] => story.offers_max = count.parse().unwrap(),
                _ => panic!("no story knows the line {line}"),
            }
        }
        story
    }

    /// What is allocated in the story counts towards the total, as it does in a cluster.
    fn total(&self) -> Amounts {
        let mut total = Amounts::default();
        for (_, _, free, _) in &self.agents {
            total.add(free);
        }
        for framework in &self.frameworks {
            let Amounts { cpus_milli, mem_mib, .. } = framework.allocated;
            total.add(&Resources { cpus_milli, mem_mib, ..Resources::default() });
        }
        total
    }

    fn allocate(&self) -> Allocation {
        let frameworks = self.frameworks.iter().map(|framework| FrameworkView {
            framework: &framework.id,
            role: &framework.role,
            allocated: framework.allocated.clone(),
            wish: match &framework.wish {
                Wish::Nothing => WishView::Nothing,
                Wish::Unlimited => WishView::Unlimited,
                Wish::Stated(demands) => WishView::Stated(demands.iter().map(demand_view).collect()),
            },
            filters: framework.filters.iter().map(|(agent, refused)| FilterView { agent, refused }).collect(),
        });
        let agents = self.agents.iter().map(|(agent, attributes, free, hold)| AgentView {
            agent,
            attributes,
            free: free.clone(),
            hold: *hold,
        });
        let roles = self.roles.iter().map(|(role, weight_milli, allocated)| RoleView {
            role,
            weight_milli: *weight_milli,
            allocated: allocated.clone(),
        });
        allocate(&Inputs {
            total: &self.total(),
            agents: agents.collect(),
            roles: roles.collect(),
            frameworks: frameworks.collect(),
            offers_max: self.offers_max,
        })
    }
}

fn demand_view((shape, count, constraints): &(Resources, u32, Vec<Attribute>)) -> DemandView<'_> {
    DemandView { shape, count: *count, constraints }
}

#[track_caller]
fn check(story: &str, expected: Expect) {
    let Allocation { offers, held_back } = Story::read(story).allocate();
    let mut told = String::new();
    for NewOffer { framework, role, agent, resources } in offers {
        let role = if role.as_str() == "default" { String::new() } else { format!(" ({role})") };
        told += &format!("{agent} -> {framework}{role}  {resources}\n");
    }
    for explanation in held_back {
        told += &format!("{explanation}\n");
    }
    expected.assert_eq(&told);
}

#[test]
fn a_framework_that_stated_nothing_gets_all_that_is_free() {
    check(
        "agent a1 cpus=4 mem=1024 ports=31000-31009 licences=2
         agent a2 cpus=2 mem=512 gpus=1 disk=100
         framework f",
        expect![[r#"
            a1 -> f  cpus=4 mem=1024MiB ports=31000-31009 licences=2
            a2 -> f  cpus=2 mem=512MiB disk=100MiB gpus=1
            framework f held back: no agent is left for it: of the agents 2 with too little free
        "#]],
    );
}

#[test]
fn a_demand_is_sliced() {
    check(
        "agent a1 cpus=4 mem=1024
         agent a2 cpus=4 mem=1024
         framework f
         wants 5 cpus=1 mem=64",
        expect![[r#"
            a1 -> f  cpus=4 mem=256MiB
            a2 -> f  cpus=1 mem=64MiB
        "#]],
    );
}

#[test]
fn several_frameworks_share_one_agent() {
    check(
        "agent a1 cpus=4 mem=1024
         framework f
         wants 9 cpus=1 mem=64
         framework g
         wants 9 cpus=1 mem=64",
        expect![[r#"
            a1 -> f  cpus=2 mem=128MiB
            a1 -> g  cpus=2 mem=128MiB
            framework f held back: 7 more of cpus=1 mem=64MiB: of the agents 1 with too little free
            framework g held back: 7 more of cpus=1 mem=64MiB: of the agents 1 with too little free
        "#]],
    );
}

#[test]
fn weights_share_by_role() {
    check(
        "agent a1 cpus=6 mem=1024
         role batch weight=1000
         role web weight=2000
         framework f role=batch
         wants 9 cpus=1 mem=64
         framework g role=web
         wants 9 cpus=1 mem=64",
        expect![[r#"
            a1 -> f (batch)  cpus=2 mem=128MiB
            a1 -> g (web)  cpus=4 mem=256MiB
            framework f held back: 7 more of cpus=1 mem=64MiB: of the agents 1 with too little free
            framework g held back: 5 more of cpus=1 mem=64MiB: of the agents 1 with too little free
        "#]],
    );
}

#[test]
fn the_dominant_kind_counts() {
    // The classic example of DRF: 9 cpus and 18 GiB; shares end at 2/3 each.
    check(
        "agent a1 cpus=9 mem=18432
         framework f
         wants 99 cpus=1 mem=4096
         framework g
         wants 99 cpus=3 mem=1024",
        expect![[r#"
            a1 -> f  cpus=3 mem=12288MiB
            a1 -> g  cpus=6 mem=2048MiB
            framework f held back: 96 more of cpus=1 mem=4096MiB: of the agents 1 with too little free
            framework g held back: 97 more of cpus=3 mem=1024MiB: of the agents 1 with too little free
        "#]],
    );
}

#[test]
fn whoever_has_less_comes_first() {
    check(
        "agent a1 cpus=1 mem=64
         role default cpus=3 mem=192
         framework f cpus=2 mem=128
         wants 1 cpus=1 mem=64
         framework g cpus=1 mem=64
         wants 1 cpus=1 mem=64",
        expect![[r#"
            a1 -> g  cpus=1 mem=64MiB
            framework f held back: 1 more of cpus=1 mem=64MiB: of the agents 1 with too little free
        "#]],
    );
}

#[test]
fn what_frameworks_of_the_past_still_use_counts_for_their_role() {
    check(
        "agent a1 cpus=1 mem=64
         role web cpus=1 mem=64
         framework f role=web
         wants 1 cpus=1 mem=64
         framework g
         wants 1 cpus=1 mem=64",
        expect![[r#"
            a1 -> g  cpus=1 mem=64MiB
            framework f held back: 1 more of cpus=1 mem=64MiB: of the agents 1 with too little free
        "#]],
    );
}

#[test]
fn a_deactivated_agent_is_not_offered() {
    check(
        "agent a1 cpus=4 mem=8192 deactivated
         agent a2 cpus=2 mem=4096
         agent a3 cpus=2 mem=4096 unreachable
         framework f",
        expect![[r#"
            a2 -> f  cpus=2 mem=4096MiB
            framework f held back: no agent is left for it: of the agents 1 with too little free, 2 that may not be offered
            agent a1 held back: an operator took it out of use
            agent a3 held back: it does not answer
        "#]],
    );
}

#[test]
fn what_was_declined_is_not_offered_again_until_there_is_more() {
    check(
        "agent same cpus=1 mem=64
         agent less cpus=1 mem=64
         agent more cpus=1 mem=64
         framework f
         declined same cpus=1 mem=64
         declined less cpus=2 mem=64
         declined more cpus=0.5 mem=64",
        expect![[r#"
            more -> f  cpus=1 mem=64MiB
            framework f held back: no agent is left for it: of the agents 1 with too little free, 2 declined for now
            agent same held back: nobody wants what it has free; 1 declined it for now
            agent less held back: nobody wants what it has free; 1 declined it for now
        "#]],
    );
}

#[test]
fn a_declined_slice_is_not_offered_again_though_the_agent_has_more() {
    check(
        "agent a1 cpus=8 mem=1024
         agent a2 cpus=8 mem=1024
         framework f
         wants 2 cpus=1 mem=64
         declined a1 cpus=2 mem=128",
        expect![[r#"
            a2 -> f  cpus=2 mem=128MiB
            agent a1 held back: nobody wants what it has free; 1 declined it for now
        "#]],
    );
}

#[test]
fn constraints_choose_agents() {
    check(
        "agent a1 cpus=4 mem=1024 @zone=eu
         agent a2 cpus=4 mem=1024 @zone=us @disk=ssd
         framework f
         wants 1 cpus=1 mem=64 @zone=us
         wants 1 cpus=1 mem=64 @zone=us @disk=hdd
         wants 1 cpus=1 mem=64",
        expect![[r#"
            a2 -> f  cpus=1 mem=64MiB
            a1 -> f  cpus=1 mem=64MiB
            framework f held back: 1 more of cpus=1 mem=64MiB: of the agents 2 without an attribute that it asks for
        "#]],
    );
}

#[test]
fn a_demand_for_ports_gets_so_many_of_the_lowest() {
    check(
        "agent a1 cpus=4 mem=1024 ports=31000-31004
         framework f
         wants 2 cpus=1 mem=64 ports=1-2
         framework g
         wants 9 cpus=0.1 mem=64 ports=31004
         framework h",
        expect![[r#"
            a1 -> f  cpus=1 mem=64MiB ports=31000-31001
            a1 -> g  cpus=0.1 mem=64MiB ports=31004
            a1 -> h  cpus=2.9 mem=896MiB ports=31002-31003
            framework g held back: 8 more of cpus=0.1 mem=64MiB ports=31004: of the agents 1 with too little free
            framework f held back: 1 more of cpus=1 mem=64MiB ports=1-2: of the agents 1 with too little free
            framework h held back: no agent is left for it: of the agents 1 with too little free
        "#]],
    );
}

#[test]
fn devices_and_named_things_are_counted() {
    check(
        "agent a1 cpus=4 mem=1024 gpus=1
         agent a2 cpus=4 mem=1024 licences=2
         framework f
         wants 2 cpus=1 mem=64 gpus=1
         wants 3 cpus=1 mem=64 licences=1",
        expect![[r#"
            a1 -> f  cpus=1 mem=64MiB gpus=1
            a2 -> f  cpus=2 mem=128MiB licences=2
            framework f held back: 1 more of cpus=1 mem=64MiB gpus=1: of the agents 2 with too little free
            framework f held back: 1 more of cpus=1 mem=64MiB licences=1: of the agents 2 with too little free
        "#]],
    );
}

#[test]
fn crumbs_are_not_offered() {
    check(
        "agent a1 cpus=4 mem=31
         agent a2 cpus=0.009 mem=1024
         agent a3
         framework f",
        expect![[r#"
            framework f held back: no agent is left for it: of the agents 3 with too little free
            agent a1 held back: it has too little free for any offer
            agent a2 held back: it has too little free for any offer
            agent a3 held back: it has too little free for any offer
        "#]],
    );
}

#[test]
fn a_small_demand_may_take_crumbs() {
    check(
        "agent a1 cpus=4 mem=31
         framework f
         wants 1 cpus=0.01 mem=4",
        expect![[r#"
            a1 -> f  cpus=0.01 mem=4MiB
        "#]],
    );
}

#[test]
fn without_any_wish_nothing_is_offered() {
    check(
        "agent a1 cpus=4 mem=1024
         framework f suppressed
         framework g
         wants 0 cpus=1 mem=64",
        expect![[r#"
            framework f held back: it asked for no offers
            agent a1 held back: nobody wants what it has free
        "#]],
    );
}

#[test]
fn no_more_offers_are_made_than_may_be() {
    check(
        "agent a1 cpus=4 mem=1024
         agent a2 cpus=4 mem=1024
         framework f
         framework g
         offers 1",
        expect![[r#"
            a1 -> f  cpus=4 mem=1024MiB
            framework g held back: as many offers are outstanding as may be
            framework f held back: as many offers are outstanding as may be
            agent a2 held back: as many offers are outstanding as may be
        "#]],
    );
}

#[test]
fn a_cluster_without_agents_says_so() {
    check(
        "framework f\nframework g\nwants 1 cpus=1",
        expect![[r#"
        framework f held back: no agent is left for it: there is no agent
        framework g held back: 1 more of cpus=1: there is no agent
    "#]],
    );
}
