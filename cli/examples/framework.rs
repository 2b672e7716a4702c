//! A framework of one's own in Rust: runs some tasks through offers and prints what became of each.
//!
//! `cargo run -p cli --example framework -- 20` against a cluster that `muster dev` started.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use muster_client::{
    Connection, Event, Framework, FrameworkOptions, Locator, is_final, new_request_id,
    scheduler::{Demand, FrameworkInfo, Offer},
    types::{Resources, TaskSpec},
};

/// What one task of this example needs.
fn shape() -> Resources {
    Resources { cpus_milli: 50, mem_mib: 16, ..Resources::default() }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let count: usize =
        std::env::args().nth(1).map_or(Ok(10), |text| text.parse()).context("how many tasks?")?;
    let connection = Connection::open(&Locator::default())?;
    let info = FrameworkInfo { name: "rust-example".to_owned(), ..FrameworkInfo::default() };
    let mut framework =
        Framework::subscribe(&connection, FrameworkOptions { info, ..Default::default() }).await?;
    println!("subscribed as {}", framework.id());

    // Ids are unique in the cluster, so they begin with something new.
    let run = new_request_id();
    let mut unlaunched: Vec<String> = (0..count).map(|number| format!("example-{run}-{number}")).collect();
    let mut fates = BTreeMap::new();
    state_demand(&mut framework, unlaunched.len()).await?;
    while fates.len() < count {
        match framework.next().await? {
            // What was said before a lost connection is said again: the leader may be another one.
            Event::Subscribed => state_demand(&mut framework, unlaunched.len()).await?,
            Event::Offers(offers) => {
                for offer in offers {
                    use_offer(&mut framework, &offer, &mut unlaunched).await?;
                }
                state_demand(&mut framework, unlaunched.len()).await?;
            }
            Event::Status(status) if is_final(status.state()) => {
                println!("{} {:?} {}", status.task_id, status.state(), status.message);
                fates.insert(status.task_id.clone(), status.state());
                framework.acknowledge().await?;
            }
            Event::Status(_)
            | Event::Rescinded { .. }
            | Event::AgentLost { .. }
            | Event::AgentBack { .. } => {}
        }
    }
    framework.teardown().await?;
    println!("{count} tasks ended");
    Ok(())
}

async fn state_demand(framework: &mut Framework, count: usize) -> anyhow::Result<()> {
    let count = u32::try_from(count)?;
    let demands =
        if count == 0 { vec![] } else { vec![Demand { shape: Some(shape()), count, constraints: vec![] }] };
    Ok(framework.set_demand(demands).await?)
}

/// Launches as many tasks as the offer holds.
async fn use_offer(
    framework: &mut Framework,
    offer: &Offer,
    unlaunched: &mut Vec<String>,
) -> anyhow::Result<()> {
    let held = offer.resources.clone().unwrap_or_default();
    let fitting = (held.cpus_milli / shape().cpus_milli).min(held.mem_mib / shape().mem_mib);
    let fitting = usize::try_from(fitting)?.min(unlaunched.len());
    if fitting == 0 {
        return Ok(framework.decline(vec![offer.offer_id.clone()], Some(Duration::from_secs(1))).await?);
    }
    let chosen = unlaunched.split_off(unlaunched.len() - fitting);
    let tasks = chosen.iter().map(|id| TaskSpec {
        task_id: id.clone(),
        name: "example".to_owned(),
        resources: Some(shape()),
        command: ["sh", "-c", "echo hello from $PWD"].map(String::from).to_vec(),
        ..TaskSpec::default()
    });
    match framework.accept(vec![offer.offer_id.clone()], tasks.collect(), None).await {
        Ok(results) => {
            // What the leader refused is tried again on the next offer.
            for result in results.into_iter().filter(|result| result.refusal.is_some()) {
                unlaunched.push(result.task_id);
            }
            Ok(())
        }
        Err(error) => {
            eprintln!("the offer could not be used: {error}");
            unlaunched.extend(chosen);
            Ok(())
        }
    }
}
