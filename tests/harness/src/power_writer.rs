//! Writes commands to a coordinator whose power will be cut, and tells on stdout what was acknowledged.
//!
//! Several writers set the weights of roles, each one after the other, so that the state says of every command
//! whether it is in there. At its start it looks what came through, and goes on behind it.
//! Its one reader is `xtask/src/power/ledger.rs`, line by line; the judge is there.

#![allow(clippy::print_stdout, reason = "what it says is what it is for")]

use std::{
    collections::BTreeMap,
    env,
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use muster_client::{
    Connection, Locator,
    operator::{ListRolesRequest, SetRoleRequest},
};

/// As many commands are under way at once, and the log's writer takes some of them together.
const WRITERS: u64 = 8;
/// Roles of one writer: more than it writes between two power cuts, so that each of these can still be seen.
const SLOTS: u64 = 1000;
/// For a member that starts on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("wrong {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().context("say where the coordinator is")?;
    // A planted mistake: it tells before it was told.
    let is_early = arguments.next().is_some_and(|argument| argument == "--early");
    let connection = Connection::open(&Locator { address: Some(address), ..Locator::default() })?;
    let weights = weights(&connection).await?;
    let found: Vec<u64> = (0..WRITERS).map(|writer| count(writer, &weights)).collect::<Result<_>>()?;
    let told: Vec<String> = found.iter().map(u64::to_string).collect();
    say(&format!("found {}", told.join(" ")));
    let writers: Vec<_> = (0..WRITERS)
        .zip(found)
        .map(|(writer, begin)| tokio::spawn(write(connection.clone(), writer, begin, is_early)))
        .collect();
    for writer in writers {
        writer.await.context("a writer panicked")??;
    }
    Ok(())
}

/// The weight of every role, as soon as there is a member that leads.
async fn weights(connection: &Connection) -> Result<BTreeMap<String, u64>> {
    let deadline = Instant::now() + PATIENCE;
    let roles = loop {
        let answer = connection.call(async |mut operator| operator.list_roles(ListRolesRequest {}).await);
        match answer.await {
            Ok(answer) => break answer.roles,
            Err(error) if Instant::now() > deadline => return Err(error).context("no roles were listed"),
            Err(_not_yet) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    Ok(roles.into_iter().map(|role| (role.role, role.weight_milli)).collect())
}

/// How many commands of a writer are in the state: all of them up to one, or something is wrong.
fn count(writer: u64, weights: &BTreeMap<String, u64>) -> Result<u64> {
    let found = |slot: u64| weights.get(&role(writer, slot)).copied().unwrap_or(0);
    // The first one has weight 1; what was never written to has none.
    let last = |slot: u64| found(slot).checked_sub(1).map(|round| round * SLOTS + slot);
    let Some(newest) = (0..SLOTS).filter_map(last).max() else { return Ok(0) };
    for slot in 0..SLOTS {
        // The newest command that wrote there, if all up to `newest` are in the state.
        let wanted = (newest + SLOTS - slot) / SLOTS;
        if found(slot) != wanted {
            let missing = found(slot) * SLOTS + slot;
            bail!("writer {writer}: command {missing} is missing, and command {newest} is there");
        }
    }
    Ok(newest + 1)
}

/// Writes one command after the other, for as long as there is power.
async fn write(connection: Connection, writer: u64, begin: u64, is_early: bool) -> Result<()> {
    for number in begin..begin + SLOTS {
        let request = SetRoleRequest {
            request_id: muster_client::new_request_id(),
            role: role(writer, number % SLOTS),
            weight_milli: number / SLOTS + 1,
        };
        if is_early {
            say(&format!("acknowledged {writer} {number}"));
        }
        let answer = connection.call(async |mut operator| operator.set_role(request.clone()).await).await;
        answer.with_context(|| format!("writer {writer}: command {number}"))?;
        if !is_early {
            say(&format!("acknowledged {writer} {number}"));
        }
    }
    Ok(())
}

fn role(writer: u64, slot: u64) -> String {
    format!("power-{writer}-{slot}")
}

/// One write, and an end by which one can tell that the line is whole.
fn say(what: &str) {
    let line = format!("@power {what};\n");
    // Nobody else could be told of it.
    let _ = std::io::stdout().write_all(line.as_bytes());
}
