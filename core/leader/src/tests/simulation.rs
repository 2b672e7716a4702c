//! Random play against the real log.
