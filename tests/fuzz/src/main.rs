//! libFuzzer, pointed at the target that `MUSTER_FUZZ_TARGET` names. Run by `cargo xtask fuzz`.
#![no_main]
#![allow(unsafe_code, reason = "libFuzzer calls a function by its C name")]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzz::run_chosen(bytes));
