//! The screen as a pure function of the view.
//!
//! Fits any size; 80 columns and 24 lines show what matters. Colour only repeats what words or places say.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph},
};

use super::{
    charts::Chart,
    rates::{Column, show},
    view::{Row, Tab, View},
};

/// A value, and the blank before it.
const COLUMN_WIDTH: u16 = 7;
/// Ids are cut to no less.
const ID_WIDTH_MIN: u16 = 17;
/// And need no more.
const ID_WIDTH_MAX: u16 = 40;
/// A task's agent is shown when there is so much room.
const PLACE_WIDTH: u16 = 17;
/// Where a chart's name stands.
const CHART_NAME_WIDTH: u16 = 12;
/// What stands beside it: `p50 < 524µs, p99 < 134ms`.
const CHART_TEXT_WIDTH: u16 = 27;
/// Title, header and help line.
const LINES_AROUND_ROWS: u16 = 3;

/// Rows of the table that fit on a screen of this height.
pub fn page(height: u16) -> usize {
    usize::from(height.saturating_sub(LINES_AROUND_ROWS))
}

/// Draws everything.
pub fn draw(frame: &mut Frame, view: &View) {
    let [title, body, help] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Paragraph::new(title_line(view)), title);
    match view.detailed() {
        Some(row) => draw_detail(frame, view, row, body),
        None => draw_table(frame, view, body),
    }
    frame.render_widget(Paragraph::new(help_line(view)), help);
    if view.is_help {
        draw_help(frame, view, body);
    }
}

fn title_line(view: &View) -> Line<'static> {
    let table = view.table();
    let name = match (view.tab, table.rows.len()) {
        (Tab::Tasks, 1) => "task",
        (Tab::Tasks, _) => "tasks",
        (Tab::Agents, 1) => "agent",
        (Tab::Agents, _) => "agents",
    };
    let mut spans = vec![Span::styled("muster top", bold())];
    let shown = view.rows().len();
    if shown == table.rows.len() {
        spans.push(Span::raw(format!("  {shown} {name}")));
    } else {
        spans.push(Span::raw(format!("  {shown} of {} {name}", table.rows.len())));
    }
    let column = table.sort.and_then(|sort| view.tab.columns().get(sort)).map_or("id", |column| column.name);
    let direction = if table.is_reversed { ", reversed" } else { "" };
    spans.push(Span::raw(format!("  by {column}{direction}")));
    if view.is_typing {
        spans.push(Span::styled(format!("  filter: {}_", view.filter), bold()));
    } else if !view.filter.is_empty() {
        spans.push(Span::raw(format!("  filter: {}", view.filter)));
    }
    if view.is_paused {
        spans.push(Span::styled("  paused", bold()));
    }
    if let Some(trouble) = &view.trouble {
        spans.push(Span::styled(format!("  {trouble}"), colored(view, Color::Red).patch(bold())));
    }
    Line::from(spans)
}

fn help_line(view: &View) -> Line<'static> {
    let text = if view.is_typing {
        "type a part of the id or place   Enter done   Esc no filter"
    } else if view.detail.is_some() {
        "q quit   Esc back   m minute or hour   Space pause   ? help"
    } else {
        "q quit  Tab tasks/agents  ←→ sort  r reverse  / filter  Enter detail  ? help"
    };
    Line::styled(text, Style::new().add_modifier(Modifier::DIM))
}

fn draw_table(frame: &mut Frame, view: &View, area: Rect) {
    let (columns, id_width, place_width) = fitting(view, area.width);
    let table = view.table();
    let mut header = vec![Span::raw(cell_left(
        match view.tab {
            Tab::Tasks => "TASK",
            Tab::Agents => "AGENT",
        },
        id_width,
    ))];
    if place_width > 0 {
        let name = match view.tab {
            Tab::Tasks => " AGENT",
            Tab::Agents => " HOST",
        };
        header.push(Span::raw(cell_left(name, place_width)));
    }
    for (place, column) in &columns {
        let text = cell_right(column.name);
        let style =
            if table.sort == Some(*place) { bold().add_modifier(Modifier::UNDERLINED) } else { bold() };
        header.push(Span::raw(" "));
        header.push(Span::styled(text, style));
    }
    let mut lines = vec![Line::from(header).style(bold())];
    let rows = view.rows();
    let selected = view.selected(&rows);
    let height = usize::from(area.height.saturating_sub(1));
    for (place, row) in rows.iter().enumerate().skip(table.top).take(height) {
        let mut spans = vec![Span::raw(cell_left(&row.id, id_width))];
        if place_width > 0 {
            spans.push(Span::raw(cell_left(&format!(" {}", row.place), place_width)));
        }
        for (_, column) in &columns {
            let value = (column.value)(&row.pair);
            spans.push(Span::raw(" "));
            spans.push(Span::styled(cell_right(&show(value, column.unit)), value_style(view, column, value)));
        }
        let line = Line::from(spans);
        lines.push(if selected == Some(place) {
            line.style(Style::new().add_modifier(Modifier::REVERSED))
        } else {
            line
        });
    }
    if rows.is_empty() {
        let text = if table.rows.is_empty() {
            "nothing runs, or no figures came yet"
        } else {
            "nothing passes the filter"
        };
        lines.push(Line::styled(text, Style::new().add_modifier(Modifier::DIM)));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// The columns that fit, with their indices; the one that rows are sorted by is always there.
fn fitting(view: &View, width: u16) -> (Vec<(usize, &'static Column)>, usize, usize) {
    let place_width = if width >= 130 { PLACE_WIDTH } else { 0 };
    let room = width.saturating_sub(ID_WIDTH_MIN + place_width) / COLUMN_WIDTH;
    let all = view.tab.columns();
    let mut columns: Vec<(usize, &Column)> = all.iter().enumerate().take(usize::from(room)).collect();
    if let Some(sort) = view.table().sort
        && let Some(column) = all.get(sort)
        && sort >= columns.len()
        && columns.pop().is_some()
    {
        columns.push((sort, column));
    }
    let taken = u16::try_from(columns.len()).unwrap_or(u16::MAX).saturating_mul(COLUMN_WIDTH) + place_width;
    let id_width = width.saturating_sub(taken).min(ID_WIDTH_MAX);
    (columns, usize::from(id_width), usize::from(place_width))
}

fn value_style(view: &View, column: &Column, value: Option<f64>) -> Style {
    let Some(value) = value else { return Style::new().add_modifier(Modifier::DIM) };
    match column.name {
        "THR%" | "WAIT%" | "PMEM%" | "PIO%" if value >= 10.0 => colored(view, Color::Yellow),
        "OOM" | "RTX/s" | "MAJ/s" if value > 0.0 => colored(view, Color::Red),
        _ => Style::new(),
    }
}

fn draw_detail(frame: &mut Frame, view: &View, row: &Row, area: Rect) {
    let Some(detail) = &view.detail else { return };
    let mut lines = vec![Line::styled(row.id.clone(), bold())];
    let facts: Vec<String> = row.facts.iter().map(|(name, fact)| format!("{name} {fact}")).collect();
    lines.push(Line::raw(facts.join("   ")));
    for columns in view.tab.columns().chunks(6) {
        let values: Vec<String> = columns
            .iter()
            .map(|column| format!("{:<5} {:<6}", column.name, show((column.value)(&row.pair), column.unit)))
            .collect();
        lines.push(Line::raw(values.join(" ")));
    }
    let span = if detail.is_minute { "last minute" } else { "last hour" };
    lines.push(Line::styled(
        match &detail.trouble {
            Some(trouble) => format!("no history: {trouble}"),
            None => format!("{span}, to now at the right"),
        },
        Style::new().add_modifier(Modifier::DIM),
    ));
    let facts_height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let [facts, charts] =
        Layout::vertical([Constraint::Length(facts_height), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Paragraph::new(lines), facts);
    let width = charts.width.saturating_sub(CHART_NAME_WIDTH + CHART_TEXT_WIDTH);
    let drawn = detail.charts(usize::from(width));
    let count = u16::try_from(drawn.len()).unwrap_or(1).max(1);
    // A chart is drawn on one to four lines, a blank line between them where there is room.
    let height = (charts.height / count).clamp(1, 5);
    let bars = if height > 2 { height - 1 } else { height };
    let lines = drawn.iter().flat_map(|chart| chart_lines(view, chart, usize::from(width), bars, height));
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), charts);
}

fn chart_lines(view: &View, chart: &Chart, width: usize, bars: u16, height: u16) -> Vec<Line<'static>> {
    const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = chart.values.iter().flatten().copied().fold(0.0, f64::max);
    let top = if most > 0.0 { most } else { 1.0 };
    let is_measured = chart.values.iter().any(Option::is_some);
    let steps = f64::from(bars) * 8.0;
    let (now, latency) = chart.now.split_once("  ").unwrap_or((&chart.now, ""));
    (0..height)
        .map(|line| {
            if line >= bars {
                return Line::default();
            }
            let below = f64::from(bars - 1 - line) * 8.0;
            let bar = |value: &Option<f64>| match value {
                None => ' ',
                Some(value) => {
                    // Zero has a line, too: it was measured.
                    let filled = (value / top * steps).ceil().max(1.0) - below;
                    // In 0 to 8, so that no sign or fraction is lost.
                    EIGHTHS.get(filled.clamp(0.0, 8.0) as usize).copied().unwrap_or(' ')
                }
            };
            let bars: String = chart.values.iter().map(bar).collect();
            let name = if line == 0 { chart.name } else { "" };
            let text = match (line, height) {
                (0, 1) if !latency.is_empty() => format!(" {now} {latency}"),
                (0, _) => format!(" {now}  max {}", show(is_measured.then_some(most), chart.unit)),
                (1, _) => format!(" {latency}"),
                (_, _) => String::new(),
            };
            Line::from(vec![
                Span::raw(cell_left(name, usize::from(CHART_NAME_WIDTH))),
                Span::styled(format!("{bars:>width$}"), colored(view, Color::Cyan)),
                Span::raw(text),
            ])
        })
        .collect()
}

fn draw_help(frame: &mut Frame, view: &View, area: Rect) {
    let mut lines = vec![
        Line::raw("Up Down PageUp PageDown Home End: select    Enter: charts    Esc: back"),
        Line::raw("Left Right: sort by another column   r: reverse   /: filter   Tab: agents"),
        Line::raw("Space: pause    m: minute or hour    q, Ctrl-C: quit"),
        Line::raw("Rates are over the last two samples; - was not available."),
    ];
    for column in view.tab.columns() {
        lines.push(Line::from(vec![
            Span::styled(format!("{:<6}", column.name), bold()),
            Span::raw(column.about),
        ]));
    }
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2).min(area.height);
    let [area, _] = Layout::vertical([Constraint::Length(height), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" any key goes back ")), area);
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn colored(view: &View, color: Color) -> Style {
    if view.has_color { Style::new().fg(color) } else { Style::new() }
}

fn cell_right(text: &str) -> String {
    format!("{text:>width$}", width = usize::from(COLUMN_WIDTH) - 1)
}

/// Cut or filled to the width.
fn cell_left(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return format!("{text:<width$}");
    }
    let cut: String = text.chars().take(width.saturating_sub(1)).collect();
    if width == 0 { cut } else { cut + "…" }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use muster_client::types::{Histogram, Usage};
    use ratatui::{
        Terminal,
        backend::TestBackend,
        crossterm::event::{KeyCode, KeyEvent},
    };

    use super::*;
    use crate::commands::top::{rates::Pair, view::Row};

    fn usage(second: i64, share: u64) -> Usage {
        let second = second.cast_unsigned();
        Usage {
            at_us: second.cast_signed() * 1_000_000,
            cpu_ns: Some(second * share * 10_000_000),
            cpu_throttled_ns: Some(second * 5_000_000),
            run_queue_ns: Some(second * second * 1_000_000),
            memory_bytes: Some((20 + second) << 20),
            memory_limit_bytes: Some(64 << 20),
            faults_minor: Some(second * 100),
            faults_major: Some(0),
            network_received_bytes: Some(second * 12_000),
            network_sent_bytes: Some(second * 3_000_000),
            block_write_bytes: Some(0),
            oom_kills: Some(0),
            run_queue_latency: Some(Histogram { counts: vec![second * 1000, second * 20, 0, second] }),
            ..Usage::default()
        }
    }

    fn row(id: &str, place: &str, share: u64) -> Row {
        Row {
            id: id.to_owned(),
            place: place.to_owned(),
            facts: vec![("agent", place.to_owned()), ("framework", "run".to_owned())],
            pair: Pair { before: Some(usage(58, share)), now: usage(60, share) },
        }
    }

    fn view() -> View {
        let mut view = View::new(false);
        view.tasks.rows = vec![
            row("web.7f3c91ab", "host-1", 25),
            row("a-very-long-name-of-a-task.0badcafe", "host-2", 150),
            Row { id: "new.1".to_owned(), place: "host-2".to_owned(), ..Row::default() },
        ];
        view.agents.rows = vec![row("host-1", "host-1.example", 180)];
        view
    }

    fn screen(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let mut text = String::new();
        for y in 0..height {
            let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    fn check(view: &View, width: u16, height: u16, expected: Expect) {
        expected.assert_eq(&screen(view, width, height));
    }

    fn press(view: &mut View, keys: &[KeyCode]) {
        for key in keys {
            view.press(KeyEvent::from(*key), 20);
        }
    }

    #[test]
    fn the_table_of_tasks() {
        check(
            &view(),
            80,
            7,
            expect![[r#"
            muster top  3 tasks  by CPU%
            TASK                CPU%   THR%  WAIT%    MEM  FLT/s   RX/s   TX/s   RD/s   WR/s
            a-very-long-name…  150.0    0.5   11.8  80.0M    100  11.7K   2.9M      -      0
            web.7f3c91ab        25.0    0.5   11.8  80.0M    100  11.7K   2.9M      -      0
            new.1                  -      -      -      -      -      -      -      -      -

            q quit  Tab tasks/agents  ←→ sort  r reverse  / filter  Enter detail  ? help
        "#]],
        );
    }

    #[test]
    fn a_wide_table_shows_where_tasks_are_and_more_columns() {
        check(
            &view(),
            170,
            5,
            expect![[r#"
            muster top  3 tasks  by CPU%
            TASK                                     AGENT              CPU%   THR%  WAIT%    MEM  FLT/s   RX/s   TX/s   RD/s   WR/s   WSET  LIMIT  MAJ/s  CTX/s  RTX/s  THRDS    OOM
            a-very-long-name-of-a-task.0badcafe      host-2            150.0    0.5   11.8  80.0M    100  11.7K   2.9M      -      0      -  64.0M      0      -      -      -      0
            web.7f3c91ab                             host-1             25.0    0.5   11.8  80.0M    100  11.7K   2.9M      -      0      -  64.0M      0      -      -      -      0
            q quit  Tab tasks/agents  ←→ sort  r reverse  / filter  Enter detail  ? help
        "#]],
        );
    }

    #[test]
    fn the_column_of_the_order_is_always_there() {
        let mut view = view();
        press(&mut view, &[KeyCode::Left, KeyCode::Left]);
        check(
            &view,
            50,
            6,
            expect![[r#"
            muster top  3 tasks  by OOM
            TASK                     CPU%   THR%  WAIT%    OOM
            a-very-long-name-of-a…  150.0    0.5   11.8      0
            web.7f3c91ab             25.0    0.5   11.8      0
            new.1                       -      -      -      -
            q quit  Tab tasks/agents  ←→ sort  r reverse  / fi
        "#]],
        );
    }

    #[test]
    fn the_table_of_agents_filtered_in_trouble() {
        let mut view = view();
        press(&mut view, &[KeyCode::Tab, KeyCode::Char('/'), KeyCode::Char('x')]);
        view.trouble = Some("the coordinator does not answer".to_owned());
        check(
            &view,
            80,
            5,
            expect![[r#"
                muster top  1 agent  by CPU%  filter: x_  the coordinator does not answer
                AGENT               CPU%   LOAD  PCPU%  PMEM%   PIO%    MEM  TOTAL   RX/s   TX/s
                host-1             180.0      -      -      -      -      -  64.0M  11.7K   2.9M

                type a part of the id or place   Enter done   Esc no filter
            "#]],
        );
    }

    #[test]
    fn one_task_with_charts() {
        let mut view = view();
        press(&mut view, &[KeyCode::Enter]);
        view.detail.as_mut().unwrap().history =
            (0..60).map(|second| usage(second, second.cast_unsigned())).collect();
        check(
            &view,
            80,
            24,
            expect![[r#"
                muster top  3 tasks  by CPU%
                a-very-long-name-of-a-task.0badcafe
                agent host-2   framework run
                CPU%  150.0  THR%  0.5    WAIT% 11.8   MEM   80.0M  FLT/s 100    RX/s  11.7K
                TX/s  2.9M   RD/s  -      WR/s  0      WSET  -      LIMIT 64.0M  MAJ/s 0
                CTX/s -      RTX/s -      THRDS -      OOM   0
                last minute, to now at the right
                cpu %                           ▁▁▁▂▂▂▃▃▄▄▄▅▅▅▆▆▇▇███ 117.0  max 117.0
                            ▁▁▁▂▂▃▃▃▄▄▄▅▅▆▆▇▇▇███████████████████████
                throttled % █████████████████████████████████████████ 0.5  max 0.5
                            █████████████████████████████████████████
                cpu wait %                      ▁▁▁▂▂▂▃▃▄▄▄▅▅▅▆▆▇▇███ 11.7  max 11.7
                            ▁▁▁▂▂▃▃▃▄▄▄▅▅▆▆▇▇▇███████████████████████ p50 < 1µs, p99 < 2µs
                memory                   ▁▁▁▁▂▂▂▃▃▃▃▄▄▄▅▅▅▅▆▆▆▇▇▇▇███ 79.0M  max 79.0M
                            ▅▅▅▆▆▆▇▇▇▇███████████████████████████████
                faults/s    █████████████████████████████████████████ 100  max 100
                            █████████████████████████████████████████
                network/s   █████████████████████████████████████████ 2.9M  max 2.9M
                            █████████████████████████████████████████
                block I/O/s                                           -  max -



                q quit   Esc back   m minute or hour   Space pause   ? help
            "#]],
        );
    }

    #[test]
    fn help() {
        let mut view = view();
        press(&mut view, &[KeyCode::Char('?')]);
        check(
            &view,
            80,
            24,
            expect![[r#"
                muster top  3 tasks  by CPU%
                ┌ any key goes back ───────────────────────────────────────────────────────────┐
                │Up Down PageUp PageDown Home End: select    Enter: charts    Esc: back        │
                │Left Right: sort by another column   r: reverse   /: filter   Tab: agents     │
                │Space: pause    m: minute or hour    q, Ctrl-C: quit                          │
                │Rates are over the last two samples; - was not available.                     │
                │CPU%  of one core                                                             │
                │THR%  held back by its CPU limit, of one core                                 │
                │WAIT% runnable without a CPU, of one core                                     │
                │MEM   charged to it                                                           │
                │FLT/s page faults                                                             │
                │RX/s  received from the network                                               │
                │TX/s  sent to the network                                                     │
                │RD/s  read from block devices                                                 │
                │WR/s  written to block devices                                                │
                │WSET  memory without file cache that may be dropped                           │
                │LIMIT memory limit                                                            │
                │MAJ/s page faults that waited for a disk                                      │
                │CTX/s context switches                                                        │
                │RTX/s TCP segments sent again                                                 │
                │THRDS threads                                                                 │
                │OOM   processes killed for want of memory                                     │
                └──────────────────────────────────────────────────────────────────────────────┘
                q quit  Tab tasks/agents  ←→ sort  r reverse  / filter  Enter detail  ? help
            "#]],
        );
    }

    #[test]
    fn every_size_can_be_drawn() {
        let mut views = vec![view(), view(), view()];
        press(&mut views[1], &[KeyCode::Enter]);
        views[1].detail.as_mut().unwrap().history = (0..90).map(|second| usage(second, 5)).collect();
        press(&mut views[2], &[KeyCode::Char('?')]);
        for view in &views {
            for (width, height) in [(1, 1), (3, 2), (10, 4), (17, 5), (24, 80), (79, 23), (300, 100)] {
                screen(view, width, height);
            }
        }
    }

    #[test]
    fn without_colour_nothing_is_coloured() {
        let mut view = view();
        press(&mut view, &[KeyCode::Enter]);
        view.trouble = Some("trouble".to_owned());
        for (has_color, expected) in [(false, false), (true, true)] {
            view.has_color = has_color;
            let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
            terminal.draw(|frame| draw(frame, &view)).unwrap();
            let is_colored = terminal.backend().buffer().content.iter().any(|cell| cell.fg != Color::Reset);
            assert_eq!(is_colored, expected);
        }
    }
}
