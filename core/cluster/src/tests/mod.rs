//! Stories told command by command, and laws that hold whatever is commanded.

mod care;
mod joining;
mod laws;
mod script;
mod story;
