//! Stories of who is offered what, and the lettered laws of the solver.

mod laws;
mod stories;
