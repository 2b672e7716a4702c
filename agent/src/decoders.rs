//! Every decoder here that faces the network, the disk, the kernel or a task, for the fuzzers in `tests/fuzz`.
//!
//! Each function takes bytes as anyone could give them, and returns; what was read is thrown away, or held against
//! what it should be. Nothing in the daemon calls these. A new decoder gets its line in [`DECODERS`].

use std::{fs::File, path::Path};

use prost::Message;
use proto::{agent::v1 as wire, agent::v1::to_agent, checkpoint::v1 as stored};
use supervisor::Known;

use crate::{checkpoint, convert, execute, health, host, session::messages};

pub use crate::fetch::decoders::archive;

/// A decoder of what is whole in memory, with its name.
pub type Decoder = (&'static str, fn(&[u8]));
/// A decoder of a file, with its name.
pub type FileDecoder = (&'static str, fn(File));

pub const DECODERS: &[Decoder] = &[
    ("leader-says", leader_says),
    ("checkpoint-row", checkpoint_row),
    ("fetch-messages", crate::fetch::decoders::messages),
    ("fetch-url", crate::fetch::decoders::url),
    ("seccomp-profile", seccomp_profile),
    ("exit-record", crate::sys::decoders::exit_record),
    ("kernel-records", crate::sys::decoders::kernel_records),
    ("kernel-types", crate::sys::decoders::kernel_types),
    ("kernel-files", kernel_files),
    ("process-maps", crate::profile::decoders::process_maps),
    ("symbol", crate::profile::decoders::symbol),
    ("probe-answer", probe_answer),
    ("agent-settings", crate::config::decoders::settings),
];

pub const FILE_DECODERS: &[FileDecoder] = &[("program", crate::profile::decoders::program)];

/// What the leader sends: checked as if anybody had sent it.
fn leader_says(bytes: &[u8]) {
    use to_agent::Message as Said;
    let Some(said) = wire::ToAgent::decode(bytes).ok().and_then(|message| message.message) else { return };
    let known = Known::new(Vec::new());
    match said {
        Said::ReadKnown(said) => drop(messages::read_known(said, &known)),
        Said::Welcome(said) => drop(messages::welcomed(said, &known)),
        Said::Launch(said) => drop(messages::launch(said)),
        Said::Kill(said) => drop(messages::kill(said)),
        Said::Acknowledge(said) => drop(messages::acknowledge(said)),
        Said::ReadOutput(said) => drop(messages::read_output(said)),
        Said::ReadHistory(said) => drop(messages::read_history(said)),
        Said::UsagePace(said) => drop(messages::usage_pace(said)),
        Said::OpenChannel(said) => drop(messages::open_channel(said)),
        Said::Refused(_) | Said::Heartbeat(_) => {}
    }
}

/// A row that can be read is written as it was read, but for secrets.
fn checkpoint_row(bytes: &[u8]) {
    // It may be none.
    let _ = checkpoint::identity_from_bytes(bytes);
    let Some(row) = stored::Row::decode(bytes).ok().and_then(|row| convert::row(row).ok()) else { return };
    let written = convert::to_row(&row);
    let again = checkpoint::row_from_bytes(&row.task_id, &written.encode_to_vec());
    assert!(again.is_ok_and(|again| convert::to_row(&again) == written), "a row isn't what was written");
}

fn seccomp_profile(bytes: &[u8]) {
    // It may be none.
    let _ = execute::profiles::compile(Path::new("profile"), bytes);
}

fn probe_answer(bytes: &[u8]) {
    // It may be none.
    let _ = health::probe::status(bytes);
    let line = health::probe::last_line(bytes);
    assert!(!line.contains(char::is_control), "a control character is left");
}

fn kernel_files(bytes: &[u8]) {
    crate::sys::decoders::kernel_files(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        // It may be none.
        let _ = host::meminfo_total(text);
    }
}
