//! Why a task waits, one line for each thing in the way.

use model::{AgentId, Resources};

/// What one agent has, and what of it is free and not offered to anyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    pub agent: AgentId,
    pub total: Resources,
    pub free: Resources,
    /// Promised to frameworks that have not used it yet.
    pub offered: Resources,
}

/// Says what stands between a shape and the agents that answer now.
pub fn explain(need: &Resources, rooms: &[Room]) -> Vec<String> {
    if rooms.is_empty() {
        return vec!["no agent answers now".to_owned()];
    }
    let lines = too_little_anywhere(need, rooms);
    if !lines.is_empty() {
        return lines;
    }
    let large_enough: Vec<&Room> = rooms.iter().filter(|room| room.total.contains(need)).collect();
    if large_enough.is_empty() {
        return vec![format!("no single agent has {need} together")];
    }
    if let Some(room) = large_enough.iter().find(|room| room.free.contains(need)) {
        return vec![format!("agent {} has room; an offer of it is on the way", room.agent)];
    }
    if let Some(room) = large_enough.iter().find(|room| room.free.plus(&room.offered).contains(need)) {
        return vec![format!(
            "agent {} would have room, but it is offered to other frameworks now",
            room.agent
        )];
    }
    let lines = too_little_free(need, &large_enough);
    if !lines.is_empty() {
        return lines;
    }
    vec![format!("no agent has {need} free together now")]
}

fn too_little_anywhere(need: &Resources, rooms: &[Room]) -> Vec<String> {
    let mut lines = Vec::new();
    for (amount, most) in amounts(need, rooms.iter().map(|room| &room.total)) {
        if most < amount.need {
            let (wanted, most) = (amount.show(amount.need), amount.show_bare(most));
            lines.push(format!("no agent has {wanted}; the largest has {most}"));
        }
    }
    if !need.ports.is_empty() && !rooms.iter().any(|room| room.total.ports.contains(&need.ports)) {
        lines.push(format!("no agent has the ports {}", need.ports));
    }
    lines
}

fn too_little_free(need: &Resources, rooms: &[&Room]) -> Vec<String> {
    let mut lines = Vec::new();
    for (amount, most) in amounts(need, rooms.iter().map(|room| &room.free)) {
        if most < amount.need {
            let wanted = amount.show(amount.need);
            lines.push(match most {
                0 => format!("needs {wanted}, agents have none free now"),
                most => format!("needs {wanted}, agents have at most {} free now", amount.show_bare(most)),
            });
        }
    }
    if !need.ports.is_empty() && !rooms.iter().any(|room| room.free.ports.contains(&need.ports)) {
        lines.push(format!("the ports {} are in use now", need.ports));
    }
    lines
}

/// One kind of resource and how much of it is needed.
struct Amount<'a> {
    name: &'a str,
    need: u64,
    unit: Unit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Thousandths,
    Mebibytes,
    Whole,
}

impl Amount<'_> {
    fn show(&self, value: u64) -> String {
        match self.unit {
            Unit::Thousandths | Unit::Whole => format!("{} {}", self.show_bare(value), self.name),
            Unit::Mebibytes => format!("{} of {}", self.show_bare(value), self.name),
        }
    }

    fn show_bare(&self, value: u64) -> String {
        match self.unit {
            Unit::Thousandths if value.is_multiple_of(1000) => format!("{}", value / 1000),
            Unit::Thousandths => {
                let digits = format!("{:03}", value % 1000);
                format!("{}.{}", value / 1000, digits.trim_end_matches('0'))
            }
            Unit::Mebibytes => format!("{value} MiB"),
            Unit::Whole => value.to_string(),
        }
    }
}

/// Each kind that is needed, with the most that one of the `rooms` has of it.
fn amounts<'a>(
    need: &'a Resources,
    rooms: impl Iterator<Item = &'a Resources> + Clone,
) -> Vec<(Amount<'a>, u64)> {
    let most = |amount: fn(&Resources) -> u64| rooms.clone().map(amount).max().unwrap_or(0);
    let mut amounts = vec![
        (
            Amount { name: "cpus", need: need.cpus_milli, unit: Unit::Thousandths },
            most(|room| room.cpus_milli),
        ),
        (Amount { name: "memory", need: need.mem_mib, unit: Unit::Mebibytes }, most(|room| room.mem_mib)),
        (Amount { name: "disk", need: need.disk_mib, unit: Unit::Mebibytes }, most(|room| room.disk_mib)),
        (Amount { name: "gpus", need: need.gpus.into(), unit: Unit::Whole }, most(|room| room.gpus.into())),
    ];
    for (name, value) in &need.scalars {
        let most = rooms.clone().filter_map(|room| room.scalars.get(name)).max().copied().unwrap_or(0);
        amounts.push((Amount { name: name.as_str(), need: *value, unit: Unit::Thousandths }, most));
    }
    amounts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::resources;
    use expect_test::{Expect, expect};

    fn check(need: &str, agents: &str, expected: Expect) {
        let rooms: Vec<_> = agents
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (total, free) = line.split_once(" free ").unwrap();
                let (free, offered) = free.split_once(" offered ").unwrap_or((free, ""));
                let words: Vec<_> = total.split_whitespace().collect();
                Room {
                    agent: AgentId::new(words[0]).unwrap(),
                    total: resources(&words[1..]),
                    free: resources(&free.split_whitespace().collect::<Vec<_>>()),
                    offered: resources(&offered.split_whitespace().collect::<Vec<_>>()),
                }
            })
            .collect();
        let need = resources(&need.split_whitespace().collect::<Vec<_>>());
        expected.assert_eq(&explain(&need, &rooms).join("\n"));
    }

    #[test]
    fn too_large_for_every_agent() {
        check(
            "cpus=64 mem=999999",
            "a1 cpus=2 mem=1024 free cpus=2 mem=1024
             a2 cpus=1.5 mem=2048 free cpus=1 mem=2048",
            expect![[r#"
                no agent has 64 cpus; the largest has 2
                no agent has 999999 MiB of memory; the largest has 2048 MiB"#]],
        );
    }

    #[test]
    fn too_large_for_what_is_free() {
        check(
            "cpus=3 mem=64",
            "a1 cpus=4 mem=1024 free cpus=1.5 mem=1024
             a2 cpus=2 mem=1024 free cpus=2 mem=1024",
            expect!["needs 3 cpus, agents have at most 1.5 free now"],
        );
    }

    #[test]
    fn each_part_is_somewhere_but_not_together() {
        check(
            "cpus=3 mem=512",
            "a1 cpus=4 mem=64 free cpus=4 mem=64
             a2 cpus=1 mem=1024 free cpus=1 mem=1024",
            expect!["no single agent has cpus=3 mem=512MiB together"],
        );
        check(
            "cpus=3 mem=512",
            "a1 cpus=4 mem=1024 free cpus=4 mem=64
             a2 cpus=4 mem=1024 free cpus=1 mem=1024",
            expect!["no agent has cpus=3 mem=512MiB free together now"],
        );
    }

    #[test]
    fn what_is_offered_to_others_is_not_free_for_a_while() {
        check(
            "cpus=2 mem=64",
            "a1 cpus=2 mem=1024 free mem=24 offered cpus=2 mem=1000",
            expect!["agent a1 would have room, but it is offered to other frameworks now"],
        );
        check(
            "cpus=2 mem=64",
            "a1 cpus=2 mem=1024 free mem=1000",
            expect!["needs 2 cpus, agents have none free now"],
        );
    }

    #[test]
    fn nobody_there_or_just_not_yet() {
        check("cpus=1 mem=64", "", expect!["no agent answers now"]);
        check(
            "cpus=1 mem=64",
            "a1 cpus=4 mem=1024 free cpus=4 mem=1024",
            expect!["agent a1 has room; an offer of it is on the way"],
        );
    }
}
