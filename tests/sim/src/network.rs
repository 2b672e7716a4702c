//! Cuts, and the streams that agents and frameworks hold to members.
//!
//! A stream keeps order, as TCP does; it can be slow, and it can break: then what was under way is lost, and
//! each side notices in its own time. Packets between members keep nothing.

use std::collections::{BTreeMap, BTreeSet};

use leader::{FromAgent, Hello, SubscribeParams, ToAgent, ToFramework};
use model::{Duration, Refusal, SubscriptionId};

use crate::{
    agent, client, member,
    stage::{Happening, Place, Stage, What},
    time::Moment,
};

/// One stream, new with each opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conn(pub u64);

/// What a client or an agent sends on its stream.
#[derive(Debug, Clone)]
pub enum Up {
    Hello(Box<Hello>),
    Subscribe(Box<SubscribeParams>),
    Said(Box<FromAgent>),
    /// A framework has read all that was sent before it was asked.
    Drained(SubscriptionId),
    End,
}

/// What a member sends on a stream.
#[derive(Debug, Clone)]
pub enum Down {
    ToAgent(Box<ToAgent>),
    ToFramework(Box<ToFramework>),
    /// Tell when everything before this was read.
    TellWhenDrained(SubscriptionId),
    Refused(Refusal),
    End,
}

/// How long a broken stream can go unnoticed: keep-alives every 10 s, and as much to wait for their answer.
const UNNOTICED_MAX: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Line {
    client: Place,
    member: usize,
    is_broken: bool,
    has_client: bool,
    has_member: bool,
    up_free: Moment,
    down_free: Moment,
}

/// Who can't reach whom, and every stream.
#[derive(Debug, Default)]
pub struct Network {
    cuts: BTreeSet<(Place, Place)>,
    lines: BTreeMap<Conn, Line>,
    next: u64,
    /// Members whose process is dead and whose machine is not: it says so to whoever wants to connect.
    pub deaf: BTreeSet<usize>,
}

impl Network {
    pub fn is_cut(&self, from: Place, to: Place) -> bool {
        self.cuts.contains(&(from, to))
    }

    pub fn cut(&mut self, from: Place, to: Place) {
        self.cuts.insert((from, to));
    }

    pub fn heal(&mut self, from: Place, to: Place) {
        self.cuts.remove(&(from, to));
    }

    pub fn heal_all(&mut self) {
        self.cuts.clear();
    }

    /// Whether this side still holds the stream.
    pub fn holds(&self, place: Place, conn: Conn) -> bool {
        self.lines.get(&conn).is_some_and(|line| match place {
            Place::Member(_) => line.has_member,
            Place::Agent(_) | Place::Framework(_) | Place::Operator | Place::World => line.has_client,
        })
    }

    /// The other end of a stream that has not broken.
    pub fn member_of(&self, conn: Conn) -> Option<usize> {
        self.lines.get(&conn).filter(|line| !line.is_broken).map(|line| line.member)
    }

    fn let_go(&mut self, place: Place, conn: Conn) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        match place {
            Place::Member(_) => line.has_member = false,
            Place::Agent(_) | Place::Framework(_) | Place::Operator | Place::World => line.has_client = false,
        }
        if !line.has_client && !line.has_member {
            self.lines.remove(&conn);
        }
    }

    fn of(&self, place: Place) -> Vec<Conn> {
        let is_end = |line: &Line| line.client == place || Place::Member(line.member) == place;
        self.lines.iter().filter(|(_, line)| is_end(line)).map(|(conn, _)| *conn).collect()
    }
}

impl Stage {
    /// Opens a stream with its first message.
    pub fn open(&mut self, client: Place, member: usize, first: Up) -> Conn {
        self.network.next += 1;
        let conn = Conn(self.network.next);
        let (has_client, has_member) = (true, true);
        let (up_free, down_free) = (self.now, self.now);
        let line = Line { client, member, is_broken: false, has_client, has_member, up_free, down_free };
        self.network.lines.insert(conn, line);
        self.send_up(conn, first);
        if self.network.deaf.contains(&member) {
            let answer = self.latency();
            self.break_line(conn, answer);
        }
        conn
    }

    pub fn send_up(&mut self, conn: Conn, message: Up) {
        let Some((client, member)) = self.may_send(conn, true) else { return };
        let delay = self.latency();
        let now = self.now;
        let Some(line) = self.network.lines.get_mut(&conn) else { return };
        line.up_free = line.up_free.max(now + delay);
        let at = line.up_free;
        let what = What::Member(member::Wake::Up { conn, from: client, message });
        let life = Some(self.life(Place::Member(member)));
        self.put(at, Happening { place: Place::Member(member), life, what });
    }

    pub fn send_down(&mut self, conn: Conn, message: Down) {
        let Some((client, _)) = self.may_send(conn, false) else { return };
        let delay = self.latency();
        let now = self.now;
        let Some(line) = self.network.lines.get_mut(&conn) else { return };
        line.down_free = line.down_free.max(now + delay);
        let at = line.down_free;
        let what = match client {
            Place::Agent(_) => What::Agent(agent::Wake::Down { conn, message }),
            Place::Framework(_) | Place::Operator | Place::World | Place::Member(_) => {
                What::Client(client::Wake::Down { conn, message })
            }
        };
        let life = Some(self.life(client));
        self.put(at, Happening { place: client, life, what });
    }

    /// Both ends, if something sent now has a chance to arrive. Sending across a cut breaks the stream.
    fn may_send(&mut self, conn: Conn, is_up: bool) -> Option<(Place, usize)> {
        let line = self.network.lines.get(&conn)?;
        let (client, member) = (line.client, line.member);
        if line.is_broken {
            return None;
        }
        let there = Place::Member(member);
        let is_cut = match is_up {
            true => self.network.is_cut(client, there),
            false => self.network.is_cut(there, client),
        };
        if is_cut || self.misfortune(1) {
            self.break_line(conn, UNNOTICED_MAX);
            return None;
        }
        Some((client, member))
    }

    /// Takes a message that has arrived, or not: its stream may have broken, or been let go, meanwhile.
    pub fn arrives(&mut self, place: Place, conn: Conn) -> bool {
        let is_broken = self.network.lines.get(&conn).is_none_or(|line| line.is_broken);
        !is_broken && self.network.holds(place, conn)
    }

    /// Ends a stream in order: what was sent before still arrives.
    pub fn hang_up(&mut self, place: Place, conn: Conn) {
        match place {
            Place::Member(_) => self.send_down(conn, Down::End),
            Place::Agent(_) | Place::Framework(_) | Place::Operator | Place::World => {
                self.send_up(conn, Up::End)
            }
        }
        self.network.let_go(place, conn);
    }

    /// This side has noticed that the stream is over.
    pub fn gone(&mut self, place: Place, conn: Conn) {
        self.network.let_go(place, conn);
    }

    /// Breaks every stream of someone who has stopped; `unnoticed` is the longest that others may believe otherwise.
    pub fn break_lines_of(&mut self, place: Place, is_sudden: bool) {
        for conn in self.network.of(place) {
            self.break_line(conn, if is_sudden { UNNOTICED_MAX } else { Duration::from_millis(100) });
            self.network.let_go(place, conn);
        }
    }

    fn break_line(&mut self, conn: Conn, unnoticed: Duration) {
        let Some(line) = self.network.lines.get_mut(&conn) else { return };
        if std::mem::replace(&mut line.is_broken, true) {
            return;
        }
        let (client, member) = (line.client, Place::Member(line.member));
        let noticed = match client {
            Place::Agent(_) => What::Agent(agent::Wake::Gone { conn }),
            Place::Framework(_) | Place::Operator | Place::World | Place::Member(_) => {
                What::Client(client::Wake::Gone { conn })
            }
        };
        let delay = self.chance.span(Duration::ZERO, unnoticed);
        self.later(client, delay, noticed);
        let delay = self.chance.span(Duration::ZERO, unnoticed);
        self.later(member, delay, What::Member(member::Wake::Gone { conn }));
    }
}
