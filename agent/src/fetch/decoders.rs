//! What servers, archives and the fetching process say, for the fuzzers: see [`crate::decoders`].

use std::{fs::File, os::fd::OwnedFd};

use super::{
    messages::{FromChild, ToChild},
    tree::{Budget, Tree},
    unpack,
    url::{HttpUrl, Source, shown},
};

/// What one archive of a fuzzer may unpack to.
const BYTES_MAX: u64 = 1 << 20;
const ENTRIES_MAX: u64 = 64;

pub fn messages(bytes: &[u8]) {
    // They may be none.
    let _ = serde_json::from_slice::<FromChild>(bytes);
    let _ = serde_json::from_slice::<ToChild>(bytes);
}

/// A URL, and in the next line where its server leads to.
pub fn url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (first, second) = text.split_once('\n').unwrap_or((text, "/next"));
    // It may be none.
    let _ = Source::parse(first);
    let Ok(first) = HttpUrl::parse(first) else { return };
    let _ = HttpUrl::parse(&first.shown());
    let Ok(next) = first.redirected(second) else { return };
    assert!(next.is_tls || !first.is_tls, "what was encrypted isn't any more");
    assert!(shown(&next.shown()) == next.shown(), "what is shown holds a secret");
}

/// Unpacks into an empty directory.
pub fn archive(archive: File, directory: OwnedFd) {
    let mut tree = Tree::new(directory);
    // It may be none.
    let _ = unpack::unpack(archive, "x", &mut tree, &mut Budget::new(BYTES_MAX, ENTRIES_MAX));
}
