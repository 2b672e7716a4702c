//! Scenarios told on the harness; they stand in `tests/e2e/`.
