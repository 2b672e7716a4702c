//! Frameworks: whoever receives offers.

use std::io::{self, IsTerminal, Write};

use muster_client::{
    new_request_id,
    operator::{ListFrameworksRequest, TeardownFrameworkRequest},
};
use serde_json::{Value, json};

use super::Context;
use crate::{
    output::{json_resources, json_time, print_rows, show_resources, show_time},
    report::{Attempted, Failure},
};

pub async fn list(context: &Context) -> Result<(), Failure> {
    let frameworks = context
        .connection
        .call(async |mut operator| operator.list_frameworks(ListFrameworksRequest {}).await)
        .await
        .attempted("list frameworks")?
        .frameworks;
    let rows = frameworks.iter().map(|framework| {
        let state = match (framework.is_built_in, framework.is_connected) {
            (true, _) => "built in".to_owned(),
            (false, true) => "connected".to_owned(),
            (false, false) => format!("disconnected since {}", show_time(framework.disconnected_at_us)),
        };
        vec![
            framework.framework_id.clone(),
            framework.name.clone(),
            framework.role.clone(),
            state,
            framework.tasks_live.to_string(),
            show_resources(&framework.allocated.clone().unwrap_or_default()),
        ]
    });
    let json = frameworks.iter().map(|framework| {
        json!({
            "framework_id": framework.framework_id,
            "name": framework.name,
            "role": framework.role,
            "is_connected": framework.is_connected,
            "is_built_in": framework.is_built_in,
            "failover_timeout_ms": framework.failover_timeout_ms,
            "disconnected_at": json_time(framework.disconnected_at_us),
            "tasks_live": framework.tasks_live,
            "allocated": json_resources(framework.allocated.as_ref()),
            "offers_outstanding": framework.offers_outstanding,
            "events_pending": framework.events_pending,
        })
    });
    let json = Value::Array(json.collect());
    print_rows(
        context.format,
        &["FRAMEWORK", "NAME", "ROLE", "STATE", "TASKS", "ALLOCATED"],
        rows.collect(),
        &json,
    )
}

pub async fn teardown(context: &Context, id: String, yes: bool) -> Result<(), Failure> {
    let attempted = format!("tear down framework `{id}`");
    if !yes {
        let frameworks = context
            .connection
            .call(async |mut operator| operator.list_frameworks(ListFrameworksRequest {}).await)
            .await
            .attempted(&attempted)?
            .frameworks;
        let framework = frameworks.iter().find(|framework| framework.framework_id == id);
        let live = framework.map_or(0, |framework| framework.tasks_live);
        if !io::stdin().is_terminal() {
            return Err(Failure::new(
                &attempted,
                format!("it would kill {live} live tasks, and nobody can be asked"),
            )
            .next("say --yes")
            .misused());
        }
        eprint!("This ends framework `{id}` for good and kills its {live} live tasks. Go on? [y/N] ");
        io::stderr().flush().attempted(&attempted)?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).attempted(&attempted)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Failure::new(&attempted, "you did not agree; nothing was changed"));
        }
    }
    let request = TeardownFrameworkRequest { request_id: new_request_id(), framework_id: id };
    context
        .connection
        .call(async |mut operator| operator.teardown_framework(request.clone()).await)
        .await
        .attempted(&attempted)?;
    Ok(())
}
