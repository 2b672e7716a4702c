//! `muster run`: hands tasks to the cluster, shows what they write, ends as they end.
//!
//! One watcher follows the tasks' states; each task's output is followed once it has an agent.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use muster_client::{
    ClientError, is_final, new_request_id,
    operator::{OutputStream, ReadOutputRequest, RunRequest, TaskView, WatchTasksRequest},
    types::{self, TaskSpec, TaskState, exit},
};
use tokio::sync::Semaphore;

use super::{Context, exec::pass_input, task};
use crate::{
    arguments::{KillSignal, Run},
    output::{Progress, print_text, state_name, with_progress, write_all},
    report::{Attempted, Failure},
    spec_file,
};

/// Outputs that are followed at once; the others wait, and are read when their turn comes.
const OUTPUTS_AT_ONCE: usize = 64;
/// How long to wait before a broken stream is opened again.
const REOPEN_DELAY: Duration = Duration::from_millis(200);

pub async fn run(context: &Context, run: Run) -> Result<ExitCode, Failure> {
    let count = run.count;
    let detach = run.detach;
    let passes_input = run.stdin && !detach;
    if passes_input && count > 1 {
        let why = "one stdin can't be the input of several tasks";
        let next = "run one, or detach and attach to each with --stdin";
        return Err(Failure::new("run the tasks", why).next(next).misused());
    }
    let request = RunRequest { request_id: new_request_id(), spec: Some(spec(run)?), count: Some(count) };
    let work = context.connection.call(async |mut operator| operator.run(request.clone()).await);
    let task_ids =
        with_progress("handing the task to the cluster", work).await.attempted("run the task")?.task_ids;
    if detach {
        print_text(&(task_ids.join("\n") + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    attend(context, task_ids, passes_input).await
}

/// Thousandths of a core, and MiB, of a task that says nothing.
const CPUS_MILLI_DEFAULT: u64 = 100;
const MEM_MIB_DEFAULT: u64 = 64;

/// What the file says, if there is one, and above it what was typed.
fn spec(run: Run) -> Result<TaskSpec, Failure> {
    let mut spec = match &run.spec {
        Some(path) => spec_file::read(path)?,
        None => TaskSpec::default(),
    };
    let resources = spec.resources.get_or_insert_default();
    let or =
        |typed: Option<u64>, filed: u64, default| typed.unwrap_or(if filed > 0 { filed } else { default });
    resources.cpus_milli = or(run.cpus, resources.cpus_milli, CPUS_MILLI_DEFAULT);
    resources.mem_mib = or(run.mem, resources.mem_mib, MEM_MIB_DEFAULT);
    resources.disk_mib = run.disk.unwrap_or(resources.disk_mib);
    resources.gpus = run.gpus.unwrap_or(resources.gpus);
    if !run.command.is_empty() {
        spec.command = run.command;
        // One command instead of a group.
        spec.processes.clear();
    }
    let program = spec.command.first().map(Path::new).and_then(Path::file_name);
    let program = program.map(|name| name.to_string_lossy().into_owned());
    let file = run.spec.as_deref().and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
    let filed = Some(std::mem::take(&mut spec.name)).filter(|name| !name.is_empty());
    spec.name = run.name.or(filed).or(program).or(file).unwrap_or_default();
    spec.env.extend(run.env);
    spec.labels.extend(run.label);
    spec.user = run.user.or(spec.user);
    spec.cwd = run.cwd.or(spec.cwd);
    spec.cpu_limit_milli = run.cpu_limit.or(spec.cpu_limit_milli);
    spec.pids_limit = run.pids_limit.or(spec.pids_limit);
    spec.kill_grace_ms = run.kill_grace.map(milliseconds).or(spec.kill_grace_ms);
    spec.run_time_max_ms = run.run_time_max.map(milliseconds).or(spec.run_time_max_ms);
    if let Some(signal) = run.kill_signal {
        spec.kill_signal = kill_signal(signal).into();
    }
    spec.fetches.extend(run.fetch);
    spec.health_check = run.health.message().or(spec.health_check);
    spec.stdin |= run.stdin;
    run.limits.apply(&mut spec);
    run.rights.apply(&mut spec)?;
    Ok(spec)
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn kill_signal(signal: KillSignal) -> types::KillSignal {
    match signal {
        KillSignal::Hup => types::KillSignal::Hup,
        KillSignal::Int => types::KillSignal::Int,
        KillSignal::Quit => types::KillSignal::Quit,
        KillSignal::Usr1 => types::KillSignal::Usr1,
        KillSignal::Usr2 => types::KillSignal::Usr2,
        KillSignal::Term => types::KillSignal::Term,
    }
}

/// Follows tasks to their end.
async fn attend(context: &Context, task_ids: Vec<String>, passes_input: bool) -> Result<ExitCode, Failure> {
    let are_many = task_ids.len() > 1;
    let permits = Arc::new(Semaphore::new(OUTPUTS_AT_ONCE));
    let mut views: BTreeMap<String, TaskView> = BTreeMap::new();
    let mut outputs = FuturesUnordered::new();
    // Begun when the task runs; one at most.
    let mut inputs = FuturesUnordered::new();
    let mut has_passed = false;
    let mut watch = Watch::new(context, task_ids.clone());
    let mut progress = Progress::new();
    let mut interrupts = 0;
    let mut patience = Box::pin(tokio::time::sleep(Duration::from_secs(1)));
    let mut is_explained = false;
    let mut is_watching = true;
    loop {
        tokio::select! {
            // Dropping a half-read message is harmless: the watch begins with the current view again.
            view = watch.next(), if is_watching => match view? {
                Some(view) => {
                    let id = view.spec.as_ref().map(|spec| spec.task_id.clone()).unwrap_or_default();
                    let was_placed = views.get(&id).is_some_and(has_output);
                    if has_output(&view) && !was_placed {
                        for source in Source::of(&id, &view) {
                            let prefix = source.prefix(are_many);
                            outputs.push(relay(context, source, prefix, Arc::clone(&permits)));
                        }
                        progress.clear();
                    }
                    if passes_input && !has_passed && view.state() == TaskState::Running {
                        has_passed = true;
                        let id = id.clone();
                        inputs.push(async move { pass_input(context, &id).await });
                    }
                    views.insert(id, view);
                    is_watching = views.len() < task_ids.len() || views.values().any(|view| !is_final(view.state()));
                }
                None => is_watching = false,
            },
            Some(done) = outputs.next(), if !outputs.is_empty() => done?,
            Some(Err(failure)) = inputs.next(), if !inputs.is_empty() => {
                // One that ended before it could be reached has not missed anything.
                if !failure.has_code("task-not-running") {
                    progress.clear();
                    eprintln!("stdin is not passed on: {}", failure.why());
                }
            }
            () = &mut patience, if is_watching => {
                let reason = views.values().find(|view| view.state() == TaskState::Waiting).map(task::why);
                match reason {
                    Some(reason) if io::IsTerminal::is_terminal(&io::stderr()) => progress.say(format!("waiting: {reason}")),
                    Some(reason) if !is_explained => {
                        is_explained = true;
                        eprintln!("waiting: {reason}");
                    }
                    _ => {}
                }
                patience.as_mut().reset(tokio::time::Instant::now() + Duration::from_secs(1));
            }
            signal = tokio::signal::ctrl_c() => {
                signal.attempted("wait for Ctrl-C")?;
                interrupts += 1;
                progress.clear();
                if interrupts > 1 {
                    eprintln!("left; the tasks end by themselves");
                    return Ok(ExitCode::from(130));
                }
                eprintln!("killing {}; Ctrl-C again leaves at once", if are_many { "the tasks" } else { "the task" });
                for id in task_ids.iter().filter(|id| views.get(*id).is_none_or(|view| !is_final(view.state()))) {
                    task::kill_one(context, id, None).await?;
                }
            }
        }
        if !is_watching && outputs.is_empty() {
            progress.clear();
            break;
        }
    }
    if are_many { Ok(sum_up(&views)) } else { Ok(views.values().next().map_or(ExitCode::FAILURE, conclude)) }
}

/// Shows what a task writes from now on, and ends as it ends; Ctrl-C only stops looking.
pub async fn attach(context: &Context, id: String, passes_input: bool) -> Result<ExitCode, Failure> {
    let attending = async {
        let mut watch = Watch::new(context, vec![id.clone()]);
        let view = task::get(context, &id).await?;
        let permits = Arc::new(Semaphore::new(OUTPUTS_AT_ONCE));
        let mut outputs = Vec::new();
        for source in Source::of(&id, &view) {
            // What the task answers to its input comes after this place, however soon it does.
            let part = if passes_input { from_end(context, &source).await? } else { NOW };
            let prefix = source.prefix(false);
            outputs.push(relay_from(context, source, prefix, part, Arc::clone(&permits)));
        }
        let input = async { if passes_input { pass_input(context, &id).await } else { Ok(()) } };
        tokio::try_join!(input, futures::future::try_join_all(outputs))?;
        let mut last = None;
        while let Some(view) = watch.next().await? {
            let is_over = is_final(view.state());
            last = Some(view);
            if is_over {
                break;
            }
        }
        Ok(last.as_ref().map_or(ExitCode::FAILURE, conclude))
    };
    tokio::select! {
        ended = attending => ended,
        signal = tokio::signal::ctrl_c() => {
            signal.attempted("wait for Ctrl-C")?;
            eprintln!("left; the task goes on");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// All that is written to an output from now on.
async fn from_end(context: &Context, source: &Source) -> Result<Part, Failure> {
    let mut end = 0;
    let last = Part { tail: Some(1), ..Part::default() };
    read_output(context, source, false, last, |offset, chunk| {
        end = offset + chunk.len() as u64;
        Ok(())
    })
    .await?;
    Ok(Part { from: end, ..Part::default() })
}

/// Whether the task has or had a process whose output can be read.
fn has_output(view: &TaskView) -> bool {
    match view.state() {
        TaskState::Running | TaskState::Killing | TaskState::Finished | TaskState::Failed => true,
        TaskState::Killed | TaskState::Gone | TaskState::Unreachable => !view.agent_id.is_empty(),
        TaskState::Unspecified
        | TaskState::Waiting
        | TaskState::Staging
        | TaskState::Starting
        | TaskState::Error
        | TaskState::Dropped => false,
    }
}

/// Says why the task ended otherwise than well, and gives its exit code.
fn conclude(view: &TaskView) -> ExitCode {
    let status = view.status.clone().unwrap_or_default();
    let how = status.exit.and_then(|exit| exit.how);
    let code = match how {
        Some(exit::How::Code(code)) => u8::try_from(code).unwrap_or(1),
        Some(exit::How::Signal(signal)) => u8::try_from(128 + signal).unwrap_or(1),
        None => u8::from(view.state() != TaskState::Finished),
    };
    let is_plain_exit = matches!(how, Some(exit::How::Code(_)))
        && matches!(view.state(), TaskState::Finished | TaskState::Failed)
        && status.reason() == muster_client::types::Reason::CommandExited;
    if !is_plain_exit {
        eprintln!("{}: {}", state_name(view.state()), task::why(view));
    }
    // A task that was killed or lost has not done its work, whatever its command said.
    if code == 0 && view.state() != TaskState::Finished { ExitCode::FAILURE } else { ExitCode::from(code) }
}

fn sum_up(views: &BTreeMap<String, TaskView>) -> ExitCode {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for view in views.values() {
        *counts.entry(state_name(view.state())).or_default() += 1;
        if view.state() != TaskState::Finished {
            let id = view.spec.as_ref().map(|spec| spec.task_id.as_str()).unwrap_or_default();
            eprintln!("{id} {}: {}", state_name(view.state()), task::why(view));
        }
    }
    let counts: Vec<_> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    eprintln!("{} tasks: {}", views.len(), counts.join(", "));
    if views.values().all(|view| view.state() == TaskState::Finished) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The states of some tasks, over connections that may break.
struct Watch<'a> {
    context: &'a Context,
    task_ids: Vec<String>,
    stream: Option<tonic::Streaming<TaskView>>,
}

impl<'a> Watch<'a> {
    fn new(context: &'a Context, task_ids: Vec<String>) -> Self {
        Self { context, task_ids, stream: None }
    }

    /// The next view, or `None` when all tasks are over.
    async fn next(&mut self) -> Result<Option<TaskView>, Failure> {
        let attempted = "follow the task";
        loop {
            let Some(stream) = &mut self.stream else {
                let request = WatchTasksRequest { task_ids: self.task_ids.clone() };
                let opened = self
                    .context
                    .connection
                    .call(async |mut operator| operator.watch_tasks(request.clone()).await);
                match opened.await {
                    Ok(stream) => self.stream = Some(stream),
                    Err(error) if error.may_pass() => tokio::time::sleep(REOPEN_DELAY).await,
                    Err(error) => return Err(Failure::from_client(attempted, &error)),
                }
                continue;
            };
            match stream.message().await {
                Ok(view) => return Ok(view),
                Err(status) => {
                    let error = self.context.connection.error(&status);
                    if !error.may_pass() {
                        return Err(Failure::from_client(attempted, &error));
                    }
                    self.stream = None;
                }
            }
        }
    }
}

/// One output of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    id: String,
    /// Of a task group.
    process: Option<String>,
    stream: OutputStream,
}

impl Source {
    pub fn new(id: String, process: Option<String>, is_stderr: bool) -> Self {
        Self { id, process, stream: if is_stderr { OutputStream::Stderr } else { OutputStream::Stdout } }
    }

    /// All of them.
    fn of(id: &str, view: &TaskView) -> Vec<Self> {
        let processes = view.spec.iter().flat_map(|spec| &spec.processes).map(|process| &process.name);
        let mut names: Vec<Option<String>> = processes.cloned().map(Some).collect();
        if names.is_empty() {
            names.push(None);
        }
        let both = |name: Option<String>| {
            [false, true].map(|is_stderr| Self::new(id.to_owned(), name.clone(), is_stderr))
        };
        names.into_iter().flat_map(both).collect()
    }

    /// What tells its lines from those of others.
    fn prefix(&self, are_many: bool) -> String {
        match (&self.process, are_many) {
            (None, false) => String::new(),
            (None, true) => format!("{} | ", self.id),
            (Some(process), false) => format!("{process} | "),
            (Some(process), true) => format!("{} {process} | ", self.id),
        }
    }
}

/// Copies one output of one task to ours, whole lines at a time where there is a prefix.
async fn relay(
    context: &Context,
    source: Source,
    prefix: String,
    permits: Arc<Semaphore>,
) -> Result<(), Failure> {
    relay_from(context, source, prefix, Part::default(), permits).await
}

async fn relay_from(
    context: &Context,
    source: Source,
    prefix: String,
    part: Part,
    permits: Arc<Semaphore>,
) -> Result<(), Failure> {
    // The semaphore is never closed, so the permit is always given.
    let _permit = permits.acquire().await;
    let mut partial = Vec::new();
    let write = |bytes: &[u8]| match source.stream {
        OutputStream::Stderr => write_all(&mut io::stderr().lock(), bytes),
        OutputStream::Stdout | OutputStream::Unspecified => {
            let mut stdout = io::stdout().lock();
            write_all(&mut stdout, bytes)?;
            stdout.flush().attempted("write to stdout")
        }
    };
    follow_output(context, &source, true, part, |chunk| {
        if prefix.is_empty() {
            return write(chunk);
        }
        partial.extend_from_slice(chunk);
        let Some(end) = partial.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let rest = partial.split_off(end + 1);
        write(&prefixed(&prefix, &partial))?;
        partial = rest;
        Ok(())
    })
    .await?;
    if !partial.is_empty() {
        partial.push(b'\n');
        write(&prefixed(&prefix, &partial))?;
    }
    Ok(())
}

fn prefixed(prefix: &str, lines: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(lines.len() + prefix.len());
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        text.extend_from_slice(prefix.as_bytes());
        text.extend_from_slice(line);
    }
    text
}

/// Which part of an output is wanted: the default is all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// So many bytes from the end.
    pub tail: Option<u64>,
    /// What was written in the last part of time.
    pub since: Option<Duration>,
    /// From this place on, where neither is said.
    pub from: u64,
}

/// What comes from now on.
const NOW: Part = Part { tail: Some(0), since: None, from: 0 };

/// Gives a task's output to `take`, chunk by chunk, over connections that may break.
pub async fn follow_output(
    context: &Context,
    source: &Source,
    follow: bool,
    part: Part,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    read_output(context, source, follow, part, |_offset, chunk| take(chunk)).await
}

/// The same, with the place of each chunk.
async fn read_output(
    context: &Context,
    source: &Source,
    follow: bool,
    part: Part,
    mut take: impl FnMut(u64, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Source { id, process, stream } = source;
    let attempted = format!("read the output of task `{id}`");
    let mut offset = part.from;
    let mut part = part;
    loop {
        let request = ReadOutputRequest {
            task_id: id.clone(),
            stream: (*stream).into(),
            process: process.clone().unwrap_or_default(),
            offset,
            follow,
            tail_bytes: part.tail,
            newer_than_ms: part.since.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
        };
        let mut chunks = context
            .connection
            .call(async |mut operator| operator.read_output(request.clone()).await)
            .await
            .attempted(&attempted)?;
        let broken: ClientError = loop {
            match chunks.message().await {
                Ok(Some(chunk)) => {
                    if chunk.offset > offset && part == Part::default() {
                        let lost = chunk.offset - offset;
                        write_all(
                            &mut io::stderr().lock(),
                            format!("[{lost} bytes of older output were dropped]\n").as_bytes(),
                        )?;
                    }
                    part = Part::default();
                    offset = chunk.offset + chunk.data.len() as u64;
                    take(chunk.offset, &chunk.data)?;
                }
                Ok(None) => return io::stdout().flush().attempted(&attempted),
                Err(status) => break context.connection.error(&status),
            }
        };
        if !broken.may_pass() {
            return Err(Failure::from_client(&attempted, &broken));
        }
        tokio::time::sleep(REOPEN_DELAY).await;
    }
}
