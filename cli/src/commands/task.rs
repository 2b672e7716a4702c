//! Tasks: look at them, read what they write, end them.

use std::{io, time::Duration};

use muster_client::{
    is_final, new_request_id,
    operator::{GetTaskRequest, GetUsageRequest, KillTaskRequest, ListTasksRequest, TaskUsage, TaskView},
    types::Process,
};
use regex::bytes::Regex;
use serde_json::{Value, json};

use super::{
    Context,
    run::{Part, Source, follow_output},
};
use crate::{
    arguments::Format,
    output::{
        health_name, json_resources, json_status, json_time, json_usage, print_facts, print_rows, print_text,
        reason_name, show_exit, show_resources, show_time, state_name, with_progress, write_all,
    },
    report::{Attempted, Failure},
    units::show_bytes,
};

pub async fn list(
    context: &Context,
    only_live: bool,
    framework: Option<String>,
    agent: Option<String>,
) -> Result<(), Failure> {
    let mut request = ListTasksRequest {
        page_size: 1000,
        page_token: String::new(),
        framework_id: framework.unwrap_or_default(),
        agent_id: agent.unwrap_or_default(),
        only_live,
    };
    let mut tasks = Vec::new();
    loop {
        let page = context
            .connection
            .call(async |mut operator| operator.list_tasks(request.clone()).await)
            .await
            .attempted("list tasks")?;
        tasks.extend(page.tasks);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    tasks.sort_by_key(|task| (is_final(task.state()), std::cmp::Reverse(task.created_at_us)));
    let rows = tasks.iter().map(|task| {
        let spec = task.spec.clone().unwrap_or_default();
        vec![
            spec.task_id,
            show_state(task),
            show_exit(task.status.as_ref().and_then(|status| status.exit.as_ref())),
            show_resources(&spec.resources.unwrap_or_default()),
            task.framework_id.clone(),
            show_time(task.created_at_us),
            why(task),
        ]
    });
    let json = Value::Array(tasks.iter().map(view).collect());
    let header = ["TASK", "STATE", "EXIT", "RESOURCES", "FRAMEWORK", "CREATED", "WHY"];
    print_rows(context.format, &header, rows.collect(), &json)
}

pub async fn get(context: &Context, id: &str) -> Result<TaskView, Failure> {
    let request = GetTaskRequest { task_id: id.to_owned() };
    let work = context.connection.call(async |mut operator| operator.get_task(request.clone()).await);
    work.await.attempted(&format!("show task `{id}`"))
}

pub async fn show(context: &Context, id: String) -> Result<(), Failure> {
    let task = get(context, &id).await?;
    let spec = task.spec.clone().unwrap_or_default();
    let status = task.status.clone().unwrap_or_default();
    let mut facts = vec![
        ("task", spec.task_id.clone()),
        ("name", spec.name.clone()),
        ("state", state_name(task.state()).to_owned()),
        ("health", health(&task).unwrap_or_default().to_owned()),
        ("why", why(&task)),
        ("exit", show_exit(status.exit.as_ref())),
        ("framework", task.framework_id.clone()),
        ("agent", task.agent_id.clone()),
        ("command", spec.command.join(" ")),
        ("processes", spec.processes.iter().map(show_process).collect::<Vec<_>>().join("; ")),
        ("user", spec.user.clone().unwrap_or_default()),
        ("resources", show_resources(&spec.resources.clone().unwrap_or_default())),
        ("created", show_time(task.created_at_us)),
        ("changed", show_time(status.at_us)),
        ("frozen", if task.is_frozen() { "yes" } else { "" }.to_owned()),
        ("released", if task.is_released { "yes" } else { "no" }.to_owned()),
    ];
    if let Some(usage) = &status.usage {
        let bytes = |figure: Option<u64>| figure.map_or_else(|| "unavailable".to_owned(), show_bytes);
        let seconds = usage.cpu_ns.map_or_else(|| "unavailable".to_owned(), show_seconds);
        facts.push(("cpu time", seconds));
        facts.push((
            "memory",
            format!("{} of {}", bytes(usage.memory_bytes), bytes(usage.memory_limit_bytes)),
        ));
    }
    facts.retain(|(_, fact)| !fact.is_empty());
    print_facts(context.format, &facts, &view(&task))
}

pub async fn logs(
    context: &Context,
    source: &Source,
    follow: bool,
    part: Part,
    grep: Option<Regex>,
) -> Result<(), Failure> {
    let Some(grep) = grep else {
        let write = |chunk: &[u8]| write_all(&mut io::stdout().lock(), chunk);
        return follow_output(context, source, follow, part, write).await;
    };
    // Here and not on the agent: what is kept is small, and a daemon with so many rights reads no patterns.
    let mut lines = Lines { grep, partial: Vec::new() };
    let write = |chunk: &[u8]| write_all(&mut io::stdout().lock(), &lines.found_in(chunk));
    follow_output(context, source, follow, part, write).await?;
    write_all(&mut io::stdout().lock(), &lines.found_at_end())
}

/// Lines that come in pieces, and the wish for some of them.
struct Lines {
    grep: Regex,
    partial: Vec<u8>,
}

/// A line that is longer is looked at in parts.
const LINE_BYTES_MAX: usize = 1 << 20;

impl Lines {
    fn found_in(&mut self, chunk: &[u8]) -> Vec<u8> {
        self.partial.extend_from_slice(chunk);
        let end = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
        let end = if self.partial.len() - end > LINE_BYTES_MAX { self.partial.len() } else { end };
        let rest = self.partial.split_off(end);
        let whole = std::mem::replace(&mut self.partial, rest);
        self.found(&whole)
    }

    fn found_at_end(&mut self) -> Vec<u8> {
        let last = std::mem::take(&mut self.partial);
        self.found(&last)
    }

    fn found(&self, lines: &[u8]) -> Vec<u8> {
        let is_found = |line: &&[u8]| self.grep.is_match(line.strip_suffix(b"\n").unwrap_or(line));
        lines.split_inclusive(|byte| *byte == b'\n').filter(is_found).collect::<Vec<_>>().concat()
    }
}

pub async fn set_frozen(context: &Context, ids: Vec<String>, is_frozen: bool) -> Result<(), Failure> {
    let what = if is_frozen { "freeze" } else { "thaw" };
    for id in ids {
        let work = context.connection.set_frozen(&id, is_frozen);
        with_progress("asking the task's agent", work).await.attempted(&format!("{what} task `{id}`"))?;
    }
    Ok(())
}

pub async fn signal(context: &Context, id: String, number: u32) -> Result<(), Failure> {
    let work = context.connection.send_signal(&id, number);
    with_progress("asking the task's agent", work).await.attempted(&format!("send a signal to task `{id}`"))
}

pub async fn kill(context: &Context, ids: Vec<String>, grace: Option<Duration>) -> Result<(), Failure> {
    for task_id in ids {
        kill_one(context, &task_id, grace).await?;
    }
    Ok(())
}

/// Asks for the end of one task; that it ends is its own story.
pub async fn kill_one(context: &Context, task_id: &str, grace: Option<Duration>) -> Result<(), Failure> {
    let request = KillTaskRequest {
        request_id: new_request_id(),
        task_id: task_id.to_owned(),
        grace_ms: grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
    };
    let work = context.connection.call(async |mut operator| operator.kill_task(request.clone()).await);
    with_progress("asking for the end of the task", work)
        .await
        .attempted(&format!("kill task `{task_id}`"))?;
    Ok(())
}

pub async fn usage(context: &Context, ids: Vec<String>, watch: bool) -> Result<(), Failure> {
    loop {
        let tasks = all_usage(context, &ids).await?;
        if watch && context.format == Format::Table {
            // Home and clear: the table stays where it is.
            print_text("\x1b[H\x1b[2J")?;
        }
        let missing = || "unavailable".to_owned();
        let rows = tasks.iter().map(|task| {
            let usage = task.usage.clone().unwrap_or_default();
            vec![
                task.task_id.clone(),
                usage.cpu_ns.map_or_else(missing, show_seconds),
                usage.cpu_throttled_ns.map_or_else(missing, show_seconds),
                usage.memory_bytes.map_or_else(missing, show_bytes),
                usage.memory_working_set_bytes.map_or_else(missing, show_bytes),
                usage.memory_limit_bytes.map_or_else(missing, show_bytes),
                usage.oom_kills.map_or_else(missing, |kills| kills.to_string()),
                usage.processes.map_or_else(missing, |processes| processes.to_string()),
            ]
        });
        let json = tasks.iter().map(|task| {
            json!({ "task_id": task.task_id, "agent_id": task.agent_id, "usage": json_usage(task.usage.as_ref()) })
        });
        let json = Value::Array(json.collect());
        let header = ["TASK", "CPU", "THROTTLED", "MEMORY", "WORKING SET", "LIMIT", "OOM KILLS", "PROCESSES"];
        print_rows(context.format, &header, rows.collect(), &json)?;
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Of the named tasks, or of all live ones, page by page.
pub async fn all_usage(context: &Context, ids: &[String]) -> Result<Vec<TaskUsage>, Failure> {
    let mut tasks = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = GetUsageRequest { task_ids: ids.to_vec(), page_token, ..GetUsageRequest::default() };
        let answer = context
            .connection
            .call(async |mut operator| operator.get_usage(request.clone()).await)
            .await
            .attempted("show what tasks use")?;
        tasks.extend(answer.tasks);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(tasks);
        }
    }
}

fn json_process(process: &Process) -> Value {
    json!({
        "name": process.name,
        "command": process.command,
        "env": process.env,
        "cpu_limit_milli": process.cpu_limit_milli,
        "mem_limit_mib": process.mem_limit_mib,
        "essential": process.essential.unwrap_or(true),
    })
}

fn show_process(process: &Process) -> String {
    let aside = if process.essential.unwrap_or(true) { "" } else { " (not essential)" };
    format!("{}{aside}: {}", process.name, process.command.join(" "))
}

fn show_seconds(ns: u64) -> String {
    format!("{}.{:03}s", ns / 1_000_000_000, ns / 1_000_000 % 1000)
}

fn health(task: &TaskView) -> Option<&'static str> {
    task.status.as_ref().and_then(|status| health_name(status.health()))
}

/// With its health, if it is asked for it.
fn show_state(task: &TaskView) -> String {
    let state = state_name(task.state());
    health(task).map_or_else(|| state.to_owned(), |health| format!("{state}, {health}"))
}

/// Why the task is in its state, in one line.
pub fn why(task: &TaskView) -> String {
    if let Some(first) = task.waiting_because.first() {
        return first.clone();
    }
    let Some(status) = &task.status else { return String::new() };
    if status.message.is_empty() { reason_name(status.reason()).to_owned() } else { status.message.clone() }
}

fn view(task: &TaskView) -> Value {
    let spec = task.spec.clone().unwrap_or_default();
    json!({
        "task_id": spec.task_id,
        "name": spec.name,
        "framework_id": task.framework_id,
        "agent_id": if task.agent_id.is_empty() { Value::Null } else { task.agent_id.clone().into() },
        "state": state_name(task.state()),
        "is_final": is_final(task.state()),
        "is_released": task.is_released,
        "is_frozen": task.is_frozen,
        "waiting_because": task.waiting_because,
        "created_at": json_time(task.created_at_us),
        "status": json_status(task.status.as_ref()),
        "spec": {
            "command": spec.command,
            "processes": spec.processes.iter().map(json_process).collect::<Vec<_>>(),
            "env": spec.env,
            "user": spec.user,
            "cwd": spec.cwd,
            "resources": json_resources(spec.resources.as_ref()),
            "cpu_limit_milli": spec.cpu_limit_milli,
            "pids_limit": spec.pids_limit,
            "kill_grace_ms": spec.kill_grace_ms,
            "stdin": spec.stdin,
            "labels": spec.labels,
        },
    })
}
