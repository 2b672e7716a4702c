//! What clients asked and heard, and whether one register each could have said so.
//!
//! Keeps its own record, outside of what it judges. The judge is stateright's; each key is a register whose
//! writes answer with what was there before, so that an answer tells of more than its own write.

use std::collections::{BTreeMap, BTreeSet};

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// Calls on one key before clients turn to the next: the judge tries orders, of which there are many.
const CALLS_PER_KEY: u64 = 20;

pub type Key = u64;
/// Unique; 0 is what was there before the first.
pub type Value = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Swap(Value),
    Read,
}

/// One register.
#[derive(Debug, Clone, Default)]
struct Register(Value);

impl SequentialSpec for Register {
    type Op = Op;
    /// What was there before.
    type Ret = Value;

    fn invoke(&mut self, op: &Op) -> Value {
        match op {
            Op::Swap(value) => std::mem::replace(&mut self.0, *value),
            Op::Read => self.0,
        }
    }
}

/// A call under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallId(usize);

#[derive(Debug, Clone)]
struct Call {
    /// Who called: one call at a time.
    client: u64,
    key: Key,
    op: Op,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// Also of a caller that is gone: it may have happened, or may yet.
    Unknown,
    Answered(Value),
    Refused,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Invoked(CallId),
    Answered(CallId),
}

/// Everything that all clients did, in order.
#[derive(Debug, Default)]
pub struct History {
    calls: Vec<Call>,
    events: Vec<Event>,
    clients: u64,
    values: u64,
    invoked: u64,
    /// Who led in each term.
    leaders: BTreeMap<u64, u64>,
    /// What stood at each index of the log when it was applied.
    applied: BTreeMap<u64, Vec<u8>>,
    /// What is wrong without any judging.
    pub violations: Vec<String>,
}

impl History {
    /// A name that nobody had before.
    pub fn client(&mut self) -> u64 {
        self.clients += 1;
        self.clients
    }

    pub fn value(&mut self) -> Value {
        self.values += 1;
        self.values
    }

    /// The key whose turn it is.
    pub fn key(&mut self) -> Key {
        self.invoked += 1;
        self.invoked / CALLS_PER_KEY
    }

    pub fn keys(&self) -> BTreeSet<Key> {
        self.calls.iter().map(|call| call.key).collect()
    }

    pub fn invoked(&mut self, client: u64, key: Key, op: Op) -> CallId {
        let id = CallId(self.calls.len());
        self.calls.push(Call { client, key, op, fate: Fate::Unknown });
        self.events.push(Event::Invoked(id));
        id
    }

    pub fn answered(&mut self, id: CallId, value: Value) {
        self.calls[id.0].fate = Fate::Answered(value);
        self.events.push(Event::Answered(id));
    }

    /// It was told that nothing happened.
    pub fn refused(&mut self, id: CallId) {
        self.calls[id.0].fate = Fate::Refused;
    }

    /// A member says that it leads.
    pub fn leads(&mut self, term: u64, member: u64) {
        let known = *self.leaders.entry(term).or_insert(member);
        if known != member {
            self.violations.push(format!("members {known} and {member} both lead in term {term}"));
        }
    }

    /// A member applied a command.
    pub fn applied(&mut self, member: u64, index: u64, command: &[u8]) {
        let known = self.applied.entry(index).or_insert_with(|| command.to_vec());
        if known != command {
            self.violations.push(format!("member {member} applied something else at {index} than others"));
        }
    }

    pub fn answers(&self) -> usize {
        self.calls.iter().filter(|call| matches!(call.fate, Fate::Answered(_))).count()
    }

    pub fn unknowns(&self) -> usize {
        self.calls.iter().filter(|call| call.fate == Fate::Unknown).count()
    }

    /// Whether a read of the calm has no answer yet.
    pub fn is_waiting(&self) -> bool {
        let last: BTreeMap<Key, Fate> = self.calls.iter().map(|call| (call.key, call.fate)).collect();
        last.values().any(|fate| !matches!(fate, Fate::Answered(_)))
    }

    pub fn terms(&self) -> usize {
        self.leaders.len()
    }

    /// A number that is the same for the same history.
    pub fn fingerprint(&self) -> u32 {
        crc32fast::hash(format!("{:?}{:?}{:?}", self.calls, self.events, self.leaders).as_bytes())
    }

    /// The first key whose answers no register could have given.
    pub fn judge(&self) -> Result<(), String> {
        if let Some(violation) = self.violations.first() {
            return Err(violation.clone());
        }
        for key in self.keys() {
            let told = self.story(key);
            let mut tester = LinearizabilityTester::<u64, Register>::default();
            let observed = self.observed(key);
            for event in &self.events {
                let (Event::Invoked(id) | Event::Answered(id)) = event;
                let call = &self.calls[id.0];
                if call.key != key || !call.counts(&observed) {
                    continue;
                }
                let noted = match (event, call.fate) {
                    (Event::Invoked(_), _) => tester.on_invoke(call.client, call.op).map(|_| ()),
                    (Event::Answered(_), Fate::Answered(value)) => {
                        tester.on_return(call.client, value).map(|_| ())
                    }
                    (Event::Answered(_), Fate::Unknown | Fate::Refused) => Ok(()),
                };
                noted.map_err(|error| format!("the history of key {key} makes no sense: {error}"))?;
            }
            if !tester.is_consistent() {
                return Err(format!("key {key} is not linearizable:\n{told}"));
            }
        }
        Ok(())
    }

    /// The values of a key that someone saw.
    fn observed(&self, key: Key) -> BTreeSet<Value> {
        let of_key = self.calls.iter().filter(|call| call.key == key);
        of_key
            .filter_map(|call| if let Fate::Answered(value) = call.fate { Some(value) } else { None })
            .collect()
    }

    fn story(&self, key: Key) -> String {
        let of_key = self.events.iter().filter_map(|event| {
            let (Event::Invoked(id) | Event::Answered(id)) = event;
            let call = &self.calls[id.0];
            (call.key == key).then(|| match event {
                Event::Invoked(_) => format!("  {:>4} asks {:?} ({:?})\n", call.client, call.op, call.fate),
                Event::Answered(_) => {
                    format!("  {:>4} hears of {:?}: {:?}\n", call.client, call.op, call.fate)
                }
            })
        });
        of_key.collect()
    }
}

impl Call {
    /// Whether the judge has to hear of it. A write of unknown fate whose value nobody saw is the key's last, or
    /// never happened: whoever came after it would have seen it. A read of unknown fate changed nothing.
    fn counts(&self, observed: &BTreeSet<Value>) -> bool {
        match (self.fate, self.op) {
            (Fate::Answered(_), _) => true,
            (Fate::Refused, _) | (Fate::Unknown, Op::Read) => false,
            (Fate::Unknown, Op::Swap(value)) => observed.contains(&value),
        }
    }
}

#[test]
fn a_stale_read_and_a_lost_write_are_seen() {
    let mut history = History::default();
    let (a, b) = (history.client(), history.client());
    let first = history.invoked(a, 0, Op::Swap(1));
    history.answered(first, 0);
    let lost = history.invoked(b, 0, Op::Swap(2));
    let read = history.invoked(a, 0, Op::Read);
    history.answered(read, 1);
    assert_eq!(history.judge(), Ok(()), "a write under way may be seen, or not");
    let later = history.invoked(a, 0, Op::Read);
    history.answered(later, 2);
    assert_eq!(history.judge(), Ok(()), "of unknown fate, and seen");
    history.answered(lost, 1);
    let stale = history.invoked(b, 0, Op::Read);
    history.answered(stale, 1);
    assert!(history.judge().unwrap_err().starts_with("key 0 is not linearizable"));

    let mut history = History::default();
    let refused = history.invoked(1, 0, Op::Swap(1));
    history.refused(refused);
    let read = history.invoked(2, 0, Op::Read);
    history.answered(read, 1);
    assert!(history.judge().is_err(), "what was refused must not happen");
}
