//! Which waiting tasks go on which offers.
//!
//! ## Design
//!
//! First come, first served, but a task that fits nowhere does not hold up those behind it.
//! The next task goes to the first agent, in the order of the offers, that still has room for it.
//! Given up: packing; the allocator decides which agents are offered, and that is where it belongs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::{AgentId, OfferId, Resources, TaskSpec, limits};

/// Commands and environments of one accept: it becomes one entry of the log, which should stay near 1 MiB.
const ACCEPT_BYTES_MAX: usize = 1 << 20;

/// An offer as `run` sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub id: OfferId,
    pub agent: AgentId,
    pub resources: Resources,
}

/// Offers of one agent, and the tasks to launch on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    pub offers: Vec<OfferId>,
    pub tasks: Vec<Arc<TaskSpec>>,
}

/// What to do with the offers: each is either accepted or declined.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    pub accepts: Vec<Accept>,
    pub declines: Vec<OfferId>,
}

/// So many tasks of this shape wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub shape: Resources,
    pub count: u32,
}

/// Places waiting tasks, oldest first, on offers.
pub fn decide<'a>(queue: impl IntoIterator<Item = &'a Arc<TaskSpec>>, offers: &[Offer]) -> Decision {
    let mut rooms = by_agent(offers);
    // What is left only shrinks, so a shape that fitted nowhere will not fit later.
    let mut hopeless: BTreeSet<&Resources> = BTreeSet::new();
    let mut open = rooms.len();
    for task in queue {
        if open == 0 {
            break;
        }
        if hopeless.contains(&task.resources) {
            continue;
        }
        let Some((room, left)) = rooms.iter_mut().find_map(|room| {
            let left = room.left.as_ref()?.minus(&task.resources)?;
            Some((room, left))
        }) else {
            hopeless.insert(&task.resources);
            continue;
        };
        room.bytes += bytes_of(task);
        room.tasks.push(task.clone());
        let is_full = room.tasks.len() >= limits::TASKS_PER_ACCEPT_MAX
            || room.bytes >= ACCEPT_BYTES_MAX
            || left.is_empty();
        if is_full {
            open -= 1;
        }
        room.left = (!is_full).then_some(left);
    }
    let mut decision = Decision::default();
    for room in rooms {
        if room.tasks.is_empty() {
            decision.declines.extend(room.offers);
        } else {
            decision.accepts.push(Accept { offers: room.offers, tasks: room.tasks });
        }
    }
    decision
}

/// What `run` could use now: one wish for each shape, in the order in which the shapes came.
///
/// Only the first [`limits::DEMANDS_MAX`] shapes are named; the others follow when these are placed.
pub fn demand<'a>(queue: impl IntoIterator<Item = &'a Arc<TaskSpec>>) -> Vec<Wish> {
    let mut wishes: Vec<Wish> = Vec::new();
    let mut places: BTreeMap<&Resources, usize> = BTreeMap::new();
    for task in queue {
        if let Some(wish) = places.get(&task.resources).and_then(|place| wishes.get_mut(*place)) {
            wish.count = wish.count.saturating_add(1);
        } else if wishes.len() < limits::DEMANDS_MAX {
            places.insert(&task.resources, wishes.len());
            wishes.push(Wish { shape: task.resources.clone(), count: 1 });
        }
    }
    wishes
}

/// All offers of one agent, taken together.
struct Room {
    offers: Vec<OfferId>,
    /// `None`: takes no more tasks.
    left: Option<Resources>,
    tasks: Vec<Arc<TaskSpec>>,
    bytes: usize,
}

/// What a spec weighs in the log, roughly.
fn bytes_of(task: &TaskSpec) -> usize {
    let command: usize = task.arguments().map(String::len).sum();
    let env: usize = task.variables().map(|(name, value)| name.len() + value.len()).sum();
    command + env
}

fn by_agent(offers: &[Offer]) -> Vec<Room> {
    let mut rooms: Vec<Room> = Vec::new();
    let mut places: BTreeMap<&AgentId, usize> = BTreeMap::new();
    for offer in offers {
        match places.get(&offer.agent).and_then(|place| rooms.get_mut(*place)) {
            Some(room) => {
                room.offers.push(offer.id.clone());
                room.left = room.left.as_ref().map(|left| left.plus(&offer.resources));
            }
            None => {
                places.insert(&offer.agent, rooms.len());
                rooms.push(Room {
                    offers: vec![offer.id.clone()],
                    left: Some(offer.resources.clone()),
                    tasks: Vec::new(),
                    bytes: 0,
                });
            }
        }
    }
    rooms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{resources, task};
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    fn parse(text: &str) -> (Vec<Arc<TaskSpec>>, Vec<Offer>) {
        let (mut queue, mut offers) = (Vec::new(), Vec::new());
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[0] {
                "task" => queue.push(task(words[1], resources(&words[2..]))),
                "offer" => offers.push(Offer {
                    id: OfferId::new(words[1]).unwrap(),
                    agent: AgentId::new(words[2]).unwrap(),
                    resources: resources(&words[3..]),
                }),
                other => panic!("what is {other}?"),
            }
        }
        (queue, offers)
    }

    fn check(text: &str, expected: Expect) {
        let (queue, offers) = parse(text);
        let decision = decide(&queue, &offers);
        let mut shown = String::new();
        for accept in &decision.accepts {
            let offers: Vec<_> = accept.offers.iter().map(OfferId::as_str).collect();
            let tasks: Vec<_> = accept.tasks.iter().map(|task| task.task_id.as_str()).collect();
            shown += &format!("accept {} for {}\n", offers.join(" "), tasks.join(" "));
        }
        for offer in &decision.declines {
            shown += &format!("decline {offer}\n");
        }
        for wish in demand(&queue) {
            shown += &format!("demand {} x {}\n", wish.count, wish.shape);
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn the_oldest_task_is_placed_first() {
        check(
            "task t1 cpus=1 mem=64
             task t2 cpus=1 mem=64
             task t3 cpus=1 mem=64
             offer o1 a1 cpus=2 mem=1024",
            expect![[r#"
                accept o1 for t1 t2
                demand 3 x cpus=1 mem=64MiB
            "#]],
        );
    }

    #[test]
    fn a_task_that_fits_nowhere_holds_up_nobody() {
        check(
            "task big cpus=64 mem=64
             task t1 cpus=1 mem=64
             offer o1 a1 cpus=2 mem=1024",
            expect![[r#"
                accept o1 for t1
                demand 1 x cpus=64 mem=64MiB
                demand 1 x cpus=1 mem=64MiB
            "#]],
        );
    }

    #[test]
    fn offers_of_one_agent_are_used_together() {
        check(
            "task t1 cpus=3 mem=64
             offer o1 a1 cpus=2 mem=64
             offer o2 a2 cpus=2 mem=64
             offer o3 a1 cpus=1 mem=64",
            expect![[r#"
                accept o1 o3 for t1
                decline o2
                demand 1 x cpus=3 mem=64MiB
            "#]],
        );
    }

    #[test]
    fn an_offer_without_use_is_declined() {
        check("offer o1 a1 cpus=2 mem=64", expect!["decline o1\n"]);
    }

    proptest! {
        #[test]
        fn nothing_is_used_twice_or_beyond_its_offers(
            tasks in prop::collection::vec((1u64..4, 1u64..4), 0..30),
            offers in prop::collection::vec((0u8..4, 0u64..8, 0u64..8), 0..10),
        ) {
            let queue: Vec<_> = tasks
                .iter()
                .enumerate()
                .map(|(place, (cpus, mem))| {
                    let need = Resources { cpus_milli: cpus * 1000, mem_mib: mem * 64, ..Default::default() };
                    task(&format!("t{place}"), need)
                })
                .collect();
            let offers: Vec<_> = offers
                .iter()
                .enumerate()
                .map(|(place, (agent, cpus, mem))| Offer {
                    id: OfferId::new(&format!("o{place}")).unwrap(),
                    agent: AgentId::new(&format!("a{agent}")).unwrap(),
                    resources: Resources {
                        cpus_milli: cpus * 1000,
                        mem_mib: mem * 64,
                        ..Default::default()
                    },
                })
                .collect();
            let decision = decide(&queue, &offers);
            let mut tasks_seen = BTreeSet::new();
            let mut offers_seen: BTreeSet<_> = decision.declines.iter().cloned().collect();
            prop_assert_eq!(offers_seen.len(), decision.declines.len());
            for accept in &decision.accepts {
                let mut left = Resources::default();
                for id in &accept.offers {
                    prop_assert!(offers_seen.insert(id.clone()));
                    left = left.plus(&offers.iter().find(|offer| offer.id == *id).unwrap().resources);
                }
                for task in &accept.tasks {
                    prop_assert!(tasks_seen.insert(task.task_id.clone()));
                    left = left.minus(&task.resources).unwrap();
                }
            }
            prop_assert_eq!(offers_seen.len(), offers.len());
        }
    }
}
