//! Damage on disk.
