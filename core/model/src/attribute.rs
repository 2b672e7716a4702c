//! Facts about an agent that a framework may choose by.

use std::collections::BTreeMap;

/// One name and its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attribute {
    pub name: String,
    pub value: String,
}

/// The attributes of one agent, by name.
pub type Attributes = BTreeMap<String, String>;
