//! What is on the screen, and what a key does to it. No terminal, no cluster, no clock.

use muster_client::types::Usage;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    charts::{self, Chart},
    rates::{AGENT, Column, Pair, TASK},
};

/// Which table is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    Tasks,
    Agents,
}

impl Tab {
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Tasks => TASK,
            Self::Agents => AGENT,
        }
    }
}

/// One task or agent.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub id: String,
    /// What else names it: a task's agent, an agent's host.
    pub place: String,
    /// What people call it, and other facts for the detail view.
    pub facts: Vec<(&'static str, String)>,
    pub pair: Pair,
}

/// Everything on the screen.
#[derive(Debug, Clone)]
pub struct View {
    pub tab: Tab,
    pub tasks: Table,
    pub agents: Table,
    /// Only rows whose id or place holds it.
    pub filter: String,
    /// Keys are letters of the filter now.
    pub is_typing: bool,
    pub is_help: bool,
    pub is_paused: bool,
    pub detail: Option<Detail>,
    /// Why the figures are old.
    pub trouble: Option<String>,
    pub has_color: bool,
}

/// Rows, their order, and the one that is looked at.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub rows: Vec<Row>,
    /// Index of the column; absent: by id.
    pub sort: Option<usize>,
    pub is_reversed: bool,
    /// Its id stays selected while rows move.
    pub selected: Option<String>,
    /// First row on the screen.
    pub top: usize,
}

/// One subject, with charts.
#[derive(Debug, Clone, Default)]
pub struct Detail {
    pub id: String,
    pub history: Vec<Usage>,
    /// The last minute instead of the last hour.
    pub is_minute: bool,
    /// Why there is no history.
    pub trouble: Option<String>,
}

impl Detail {
    /// The charts of what is known.
    pub fn charts(&self, points: usize) -> Vec<Chart> {
        charts::charts(&self.history, points)
    }
}

/// What a key asks of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    Quit,
    /// The history of what the detail view shows.
    History,
}

impl View {
    pub fn new(has_color: bool) -> Self {
        let table = Table { sort: Some(0), ..Table::default() };
        Self {
            tab: Tab::Tasks,
            tasks: table.clone(),
            agents: table,
            filter: String::new(),
            is_typing: false,
            is_help: false,
            is_paused: false,
            detail: None,
            trouble: None,
            has_color,
        }
    }

    pub fn table(&self) -> &Table {
        match self.tab {
            Tab::Tasks => &self.tasks,
            Tab::Agents => &self.agents,
        }
    }

    fn table_mut(&mut self) -> &mut Table {
        match self.tab {
            Tab::Tasks => &mut self.tasks,
            Tab::Agents => &mut self.agents,
        }
    }

    /// Rows that pass the filter, in their order.
    pub fn rows(&self) -> Vec<&Row> {
        let table = self.table();
        let mut rows: Vec<&Row> = table
            .rows
            .iter()
            .filter(|row| row.id.contains(&self.filter) || row.place.contains(&self.filter))
            .collect();
        match table.sort.and_then(|sort| self.tab.columns().get(sort)) {
            None => rows.sort_by(|left, right| left.id.cmp(&right.id)),
            // Largest first; what is not available last, whatever the direction.
            Some(column) => rows.sort_by(|left, right| {
                let (left_value, right_value) = ((column.value)(&left.pair), (column.value)(&right.pair));
                let order = match (left_value, right_value) {
                    (Some(left), Some(right)) if table.is_reversed => left.total_cmp(&right),
                    (Some(left), Some(right)) => right.total_cmp(&left),
                    (left, right) => right.is_some().cmp(&left.is_some()),
                };
                order.then_with(|| left.id.cmp(&right.id))
            }),
        }
        if table.sort.is_none() && table.is_reversed {
            rows.reverse();
        }
        rows
    }

    /// Where the selected row is among [`View::rows`].
    pub fn selected(&self, rows: &[&Row]) -> Option<usize> {
        let selected = self.table().selected.as_ref();
        let place = selected.and_then(|id| rows.iter().position(|row| row.id == *id));
        place.or_else(|| (!rows.is_empty()).then_some(0))
    }

    /// What the detail view is about, if it is still there.
    pub fn detailed(&self) -> Option<&Row> {
        let detail = self.detail.as_ref()?;
        self.table().rows.iter().find(|row| row.id == detail.id)
    }

    /// Brings the first row on the screen to where the selected one is visible.
    pub fn scroll(&mut self, height: usize) {
        let (selected, count) = {
            let rows = self.rows();
            (self.selected(&rows).unwrap_or(0), rows.len())
        };
        let table = self.table_mut();
        let lowest = (selected + 1).saturating_sub(height);
        table.top = table.top.clamp(lowest.min(selected), selected).min(count.saturating_sub(height));
    }

    /// Does what a key means; `page` is how many rows the screen has.
    pub fn press(&mut self, key: KeyEvent, page: usize) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Wish::Quit } else { Wish::Nothing };
        }
        if self.is_typing {
            self.type_filter(key.code);
            return Wish::Nothing;
        }
        if self.is_help {
            self.is_help = false;
            return if key.code == KeyCode::Char('q') { Wish::Quit } else { Wish::Nothing };
        }
        match key.code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('?') => self.is_help = true,
            KeyCode::Char(' ') => self.is_paused = !self.is_paused,
            KeyCode::Esc | KeyCode::Backspace if self.detail.is_some() => self.detail = None,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('m') => {
                let Some(detail) = &mut self.detail else { return Wish::Nothing };
                detail.is_minute = !detail.is_minute;
                return Wish::History;
            }
            KeyCode::Enter if self.detail.is_none() => return self.open(),
            KeyCode::Tab => {
                self.tab = if self.tab == Tab::Tasks { Tab::Agents } else { Tab::Tasks };
                self.detail = None;
            }
            KeyCode::Char('/') => {
                self.detail = None;
                self.is_typing = true;
            }
            KeyCode::Char('<' | ',') | KeyCode::Left => self.sort_by(-1),
            KeyCode::Char('>' | '.') | KeyCode::Right => self.sort_by(1),
            KeyCode::Char('r') => {
                let table = self.table_mut();
                table.is_reversed = !table.is_reversed;
            }
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::PageUp => self.select(-(page.max(1).cast_signed())),
            KeyCode::PageDown => self.select(page.max(1).cast_signed()),
            KeyCode::Home => self.select(isize::MIN),
            KeyCode::End => self.select(isize::MAX),
            _ => {}
        }
        Wish::Nothing
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
    }

    fn open(&mut self) -> Wish {
        let id = {
            let rows = self.rows();
            self.selected(&rows).and_then(|place| rows.get(place)).map(|row| row.id.clone())
        };
        let Some(id) = id else { return Wish::Nothing };
        self.table_mut().selected = Some(id.clone());
        self.detail = Some(Detail { id, is_minute: true, ..Detail::default() });
        Wish::History
    }

    fn sort_by(&mut self, step: isize) {
        // By id stands before the first column.
        let count = self.tab.columns().len() + 1;
        let table = self.table_mut();
        let place = table.sort.map_or(0, |sort| sort + 1);
        let place = place.checked_add_signed(step).map_or(count - 1, |place| place % count);
        table.sort = place.checked_sub(1);
        table.is_reversed = false;
    }

    fn select(&mut self, by: isize) {
        if self.detail.is_some() {
            return;
        }
        let id = {
            let rows = self.rows();
            let Some(now) = self.selected(&rows) else { return };
            let place = now.saturating_add_signed(by).min(rows.len() - 1);
            rows.get(place).map(|row| row.id.clone())
        };
        self.table_mut().selected = id;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn row(id: &str, cpu: Option<u64>) -> Row {
        let usage = |at_us, cpu_ns| Usage { at_us, cpu_ns, ..Usage::default() };
        let pair = Pair { before: Some(usage(0, cpu.map(|_| 0))), now: usage(1_000_000, cpu) };
        Row { id: id.to_owned(), pair, ..Row::default() }
    }

    fn view() -> View {
        let mut view = View::new(false);
        view.tasks.rows = vec![row("a", Some(5)), row("b", None), row("c", Some(9)), row("d", Some(1))];
        view
    }

    fn press(view: &mut View, keys: &[KeyCode]) -> Wish {
        keys.iter().map(|key| view.press(KeyEvent::from(*key), 2)).last().unwrap()
    }

    fn order(view: &View) -> String {
        view.rows().iter().map(|row| row.id.as_str()).collect()
    }

    fn selected(view: &View) -> String {
        let rows = view.rows();
        rows[view.selected(&rows).unwrap()].id.clone()
    }

    #[test]
    fn what_is_unavailable_comes_last_whatever_the_order() {
        let mut view = view();
        assert_eq!(order(&view), "cadb");
        press(&mut view, &[KeyCode::Char('r')]);
        assert_eq!(order(&view), "dacb");
        press(&mut view, &[KeyCode::Left]);
        assert_eq!(order(&view), "abcd");
        press(&mut view, &[KeyCode::Left]);
        assert_eq!(view.tasks.sort, Some(TASK.len() - 1));
        press(&mut view, &[KeyCode::Right, KeyCode::Right]);
        assert_eq!(view.tasks.sort, Some(0));
    }

    #[test]
    fn the_selected_task_stays_selected_while_rows_move() {
        let mut view = view();
        press(&mut view, &[KeyCode::Down]);
        assert_eq!(selected(&view), "a");
        view.tasks.rows[0] = row("a", Some(0));
        assert_eq!((order(&view).as_str(), selected(&view).as_str()), ("cdab", "a"));
        press(&mut view, &[KeyCode::End]);
        assert_eq!(selected(&view), "b");
        view.scroll(2);
        assert_eq!(view.tasks.top, 2);
        press(&mut view, &[KeyCode::PageUp]);
        assert_eq!(selected(&view), "d");
        view.scroll(2);
        assert_eq!(view.tasks.top, 1);
        view.tasks.rows.clear();
        press(&mut view, &[KeyCode::Down]);
        view.scroll(2);
    }

    #[test]
    fn a_filter_is_typed_and_taken_back() {
        let mut view = view();
        press(&mut view, &[KeyCode::Char('/'), KeyCode::Char('q')]);
        assert_eq!((view.filter.as_str(), order(&view).as_str()), ("q", ""));
        press(&mut view, &[KeyCode::Backspace, KeyCode::Char('c'), KeyCode::Enter]);
        assert_eq!(order(&view), "c");
        press(&mut view, &[KeyCode::Esc]);
        assert_eq!(order(&view), "cadb");
    }

    #[test]
    fn enter_opens_and_escape_closes() {
        let mut view = view();
        assert_eq!(press(&mut view, &[KeyCode::Enter]), Wish::History);
        assert_eq!(view.detailed().unwrap().id, "c");
        assert_eq!(press(&mut view, &[KeyCode::Char('m')]), Wish::History);
        press(&mut view, &[KeyCode::Esc]);
        assert!(view.detail.is_none());
        assert_eq!(press(&mut view, &[KeyCode::Char('q')]), Wish::Quit);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        view.is_typing = true;
        assert_eq!(view.press(control_c, 2), Wish::Quit);
    }
}
