//! Live tasks and agents, as the kernel measures them.
//!
//! `view` says what a key does, `draw` what it looks like; here are the terminal, the cluster and the time.

mod charts;
mod draw;
mod rates;
mod view;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    time::Duration,
};

use muster_client::operator::{AgentUsage, GetUsageHistoryRequest, TaskUsage, get_usage_history_request::Of};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};
use serde_json::{Map, Value};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{Context, agent, task};
use crate::{
    arguments::{Format, Top},
    output::print_rows,
    report::{Attempted, Failure},
    units::{show_bytes, show_thousandths},
};
use rates::{Pair, show};
use view::{Row, Tab, View, Wish};

/// How often figures are asked for; agents report every 2 s, or more rarely where there are many.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long `--once` waits for second samples.
const ONCE_PATIENCE: Duration = Duration::from_secs(20);
/// Key presses and news that wait to be drawn.
const NEWS_MAX: usize = 64;

/// What can change the screen.
enum News {
    Samples {
        tasks: Vec<TaskUsage>,
        agents: Vec<AgentUsage>,
    },
    History {
        id: String,
        result: Result<Vec<muster_client::types::Usage>, String>,
    },
    Trouble(String),
    Input(Event),
    /// The terminal is gone.
    InputEnded,
}

/// Whose history is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subject {
    tab: Tab,
    id: String,
    is_minute: bool,
}

pub async fn top(context: &Context, options: Top) -> Result<(), Failure> {
    let mut view = View::new(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
    view.tab = if options.agents { Tab::Agents } else { Tab::Tasks };
    view.filter = options.filter.unwrap_or_default();
    if let Some(name) = &options.sort {
        let sort = Some(column(view.tab, name)?);
        match view.tab {
            Tab::Tasks => view.tasks.sort = sort,
            Tab::Agents => view.agents.sort = sort,
        }
    }
    if options.once || context.format == Format::Json {
        return once(context, view).await;
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::new("show live figures", "this is no terminal")
            .misused()
            .next("ask for one table (`muster top --once`) or JSON (`muster top --output json`)"));
    }
    let mut screen = Screen::open()?;
    watch_cluster(context, &mut view, &mut screen).await
}

/// Which column has this name or key.
fn column(tab: Tab, name: &str) -> Result<usize, Failure> {
    let columns = tab.columns();
    let matches = |text: &str| {
        text.trim_end_matches(['%', '/', 's']).eq_ignore_ascii_case(name.trim_end_matches(['%', '/', 's']))
    };
    columns.iter().position(|column| matches(column.name) || column.key == name).ok_or_else(|| {
        let names: Vec<_> = columns.iter().map(|column| column.name).collect();
        Failure::new("sort", format!("no column is called `{name}`"))
            .next(format!("take one of: {}", names.join(" ")))
    })
}

/// The terminal, given back whatever happens: at a panic, too.
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    fn open() -> Result<Self, Failure> {
        let terminal =
            ratatui::try_init().map_err(|error| Failure::new("use the terminal", error.to_string()))?;
        Ok(Self { terminal })
    }

    fn draw(&mut self, view: &mut View) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new("draw on the terminal", error.to_string());
        let size = self.terminal.size().map_err(failed)?;
        view.scroll(draw::page(size.height));
        self.terminal.draw(|frame| draw::draw(frame, view)).map(drop).map_err(failed)
    }

    fn page(&self) -> usize {
        self.terminal.size().map_or(1, |size| draw::page(size.height))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn watch_cluster(context: &Context, view: &mut View, screen: &mut Screen) -> Result<(), Failure> {
    let (sender, mut news) = mpsc::channel(NEWS_MAX);
    let (wanted, wanted_reader) = watch::channel(None);
    read_keys(sender.clone());
    let asking = ask(context, sender, wanted_reader);
    let mut asking = std::pin::pin!(asking);
    let failed = |error: io::Error| Failure::new("listen for signals", error.to_string());
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    loop {
        screen.draw(view)?;
        let news = tokio::select! {
            Some(news) = news.recv() => news,
            () = &mut asking => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        };
        match news {
            News::Samples { tasks, agents } if !view.is_paused => {
                view.trouble = None;
                take_in(view, tasks, agents);
            }
            News::Samples { .. } => {}
            News::Trouble(trouble) => view.trouble = Some(trouble),
            News::History { id, result } => {
                if let Some(detail) = view.detail.as_mut().filter(|detail| detail.id == id && !view.is_paused)
                {
                    match result {
                        Ok(points) => (detail.history, detail.trouble) = (points, None),
                        Err(trouble) => detail.trouble = Some(trouble),
                    }
                }
            }
            News::Input(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                match view.press(key, screen.page()) {
                    Wish::Nothing | Wish::History => {}
                    Wish::Quit => return Ok(()),
                }
                let (tab, detail) = (view.tab, view.detail.as_ref());
                let subject =
                    detail.map(|detail| Subject { tab, id: detail.id.clone(), is_minute: detail.is_minute });
                wanted.send_if_modified(|before| std::mem::replace(before, subject.clone()) != subject);
            }
            // A new size is drawn like everything else.
            News::Input(_) => {}
            News::InputEnded => return Ok(()),
        }
    }
}

/// Reads the terminal on a thread of its own, which ends with the process.
fn read_keys(sender: mpsc::Sender<News>) {
    std::thread::spawn(move || {
        loop {
            let (news, is_last) = match event::read() {
                Ok(event) => (News::Input(event), false),
                Err(_) => (News::InputEnded, true),
            };
            if sender.blocking_send(news).is_err() || is_last {
                return;
            }
        }
    });
}

/// Asks for figures again and again, and at once for the history that is looked at.
async fn ask(context: &Context, sender: mpsc::Sender<News>, mut wanted: watch::Receiver<Option<Subject>>) {
    loop {
        let next = Instant::now() + INTERVAL;
        let news = match samples(context).await {
            Ok((tasks, agents)) => News::Samples { tasks, agents },
            Err(failure) => News::Trouble(failure.why().to_owned()),
        };
        if sender.send(news).await.is_err() {
            return;
        }
        loop {
            let subject = wanted.borrow_and_update().clone();
            if let Some(subject) = subject {
                let result = history(context, &subject).await.map_err(|failure| failure.why().to_owned());
                if sender.send(News::History { id: subject.id, result }).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = sleep_until(next) => break,
                Ok(()) = wanted.changed() => {}
            }
        }
    }
}

async fn samples(context: &Context) -> Result<(Vec<TaskUsage>, Vec<AgentUsage>), Failure> {
    let tasks = task::all_usage(context, &[]).await?;
    Ok((tasks, agent::all_usage(context, &[]).await?))
}

async fn history(context: &Context, subject: &Subject) -> Result<Vec<muster_client::types::Usage>, Failure> {
    let of = match subject.tab {
        Tab::Tasks => Of::TaskId(subject.id.clone()),
        Tab::Agents => Of::AgentId(subject.id.clone()),
    };
    let (step_ms, span_us) = if subject.is_minute { (0, 60_000_000) } else { (9_000, 0) };
    let mut request = GetUsageHistoryRequest { of: Some(of), since_us: 0, step_ms };
    if span_us > 0 {
        request.since_us = jiff::Timestamp::now().as_microsecond() - span_us;
    }
    let answer = context
        .connection
        .call(async |mut operator| operator.get_usage_history(request.clone()).await)
        .await
        .attempted("show the history")?;
    Ok(answer.points)
}

/// Brings both tables up to date: new samples beside the ones before.
fn take_in(view: &mut View, tasks: Vec<TaskUsage>, agents: Vec<AgentUsage>) {
    let tasks = tasks.into_iter().map(|task| {
        let facts = vec![
            ("name", task.name),
            ("framework", task.framework_id),
            ("agent", task.agent_id.clone()),
            (
                "cpus",
                format!(
                    "{} to {}",
                    show_thousandths(task.cpus_milli),
                    show_thousandths(task.cpu_limit_milli)
                ),
            ),
        ];
        (task.task_id, task.agent_id, facts, task.usage.unwrap_or_default())
    });
    update(&mut view.tasks.rows, tasks);
    let agents = agents.into_iter().map(|agent| {
        let (total, allocated) = (agent.total.unwrap_or_default(), agent.allocated.unwrap_or_default());
        let facts = vec![
            ("host", agent.hostname.clone()),
            ("tasks", agent.tasks_live.to_string()),
            (
                "cpus taken",
                format!(
                    "{} of {}",
                    show_thousandths(allocated.cpus_milli),
                    show_thousandths(total.cpus_milli)
                ),
            ),
            (
                "memory taken",
                format!("{} of {}", show_bytes(allocated.mem_mib << 20), show_bytes(total.mem_mib << 20)),
            ),
        ];
        (agent.agent_id, agent.hostname, facts, agent.usage.unwrap_or_default())
    });
    update(&mut view.agents.rows, agents);
}

type Sample = (String, String, Vec<(&'static str, String)>, muster_client::types::Usage);

/// Rows for exactly these samples; those that were there keep their sample before.
fn update(rows: &mut Vec<Row>, samples: impl Iterator<Item = Sample>) {
    let mut before: BTreeMap<String, Pair> =
        std::mem::take(rows).into_iter().map(|row| (row.id, row.pair)).collect();
    rows.extend(samples.map(|(id, place, facts, usage)| {
        let pair = match before.remove(&id) {
            Some(mut pair) => {
                pair.push(usage);
                pair
            }
            None => Pair { before: None, now: usage },
        };
        Row { id, place, facts, pair }
    }));
}

/// One frame, as soon as everything that runs has rates.
async fn once(context: &Context, mut view: View) -> Result<(), Failure> {
    let deadline = Instant::now() + ONCE_PATIENCE;
    loop {
        let (tasks, agents) = samples(context).await?;
        take_in(&mut view, tasks, agents);
        if view.rows().iter().all(|row| row.pair.has_rates()) || Instant::now() >= deadline {
            break;
        }
        sleep(INTERVAL / 2).await;
    }
    let columns = view.tab.columns();
    let rows = view.rows();
    let (noun, place) = match view.tab {
        Tab::Tasks => ("TASK", "AGENT"),
        Tab::Agents => ("AGENT", "HOST"),
    };
    let mut header = vec![noun, place];
    header.extend(columns.iter().map(|column| column.name));
    let lines = rows.iter().map(|row| {
        let values = columns.iter().map(|column| show((column.value)(&row.pair), column.unit));
        [row.id.clone(), row.place.clone()].into_iter().chain(values).collect()
    });
    let json = rows.iter().map(|row| {
        let (id, place) = match view.tab {
            Tab::Tasks => ("task_id", "agent_id"),
            Tab::Agents => ("agent_id", "hostname"),
        };
        let mut object = Map::new();
        object.insert(id.to_owned(), row.id.clone().into());
        object.insert(place.to_owned(), row.place.clone().into());
        for column in columns {
            // What was not available is absent.
            if let Some(value) = (column.value)(&row.pair) {
                object.insert(column.key.to_owned(), value.into());
            }
        }
        Value::Object(object)
    });
    print_rows(context.format, &header, lines.collect(), &Value::Array(json.collect()))
}
