//! The process that names addresses: `muster-agent name-addresses`, started by the agent alone.
//!
//! Runs as nobody, without capabilities, with bounds for its memory and time, and with the system calls that reading
//! a descriptor needs. It is asked about one program at a time, which comes as a descriptor.

use std::{fs::File, io, os::fd::AsFd as _};

use serde::{Deserialize, Serialize};

use super::{clean, elf};
use crate::fetch::messages;

/// Names for places in the file that comes along.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question {
    pub places: Vec<u64>,
}

/// As many as were asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    pub names: Vec<Option<String>>,
}

/// Answers until nobody asks any more.
pub fn run() -> io::Result<()> {
    let socket = io::stdin();
    let socket = socket.as_fd();
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    crate::sys::confine_naming()?;
    while let Some((Question { places }, along)) = messages::receive(socket)? {
        let Some(file) = along.map(File::from) else {
            return Err(io::Error::other("this verb is the agent's own; it is not for people"));
        };
        let names = elf::names(&file, &places);
        let names = names.into_iter().map(|name| name.map(|name| readable(&name))).collect();
        messages::send(socket, &Answer { names }, None)?;
    }
    Ok(())
}

/// Without what compilers put around names.
pub(super) fn readable(symbol: &[u8]) -> String {
    let symbol = String::from_utf8_lossy(symbol);
    if let Ok(name) = rustc_demangle::try_demangle(&symbol) {
        // Without the hash.
        return clean(&format!("{name:#}"));
    }
    let options = cpp_demangle::DemangleOptions::new().no_params().no_return_type();
    let of_cpp =
        symbol.starts_with("_Z").then(|| cpp_demangle::Symbol::new(symbol.as_bytes()).ok()).flatten();
    match of_cpp.and_then(|name| name.demangle_with_options(&options).ok()) {
        Some(name) => clean(&name),
        None => clean(&symbol),
    }
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn names_are_those_that_people_wrote() {
        assert_eq!(readable(b"_ZN4core3fmt9Formatter3pad17h0123456789abcdefE"), "core::fmt::Formatter::pad");
        assert_eq!(readable(b"_ZN3foo3barEi"), "foo::bar");
        assert_eq!(readable(b"main"), "main");
        assert_eq!(readable(b"a;b\n"), "a_b_");
        assert_eq!(readable(b"\xff"), "\u{fffd}");
        let deep = ["_Z".to_owned(), "P".repeat(100_000)].concat();
        assert_eq!(readable(deep.as_bytes()).len(), crate::profile::limits::NAME_LETTERS_MAX);
    }
}
