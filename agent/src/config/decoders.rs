//! Settings as a file may hold them, for the fuzzers: see [`crate::decoders`].

use std::{collections::BTreeMap, path::Path};

use super::{Config, Loaded, SETTINGS};

/// What is shown of good ones can be read, and means the same.
pub fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let read = |text: &str| {
        let mut loaded = Loaded { config: Config::default(), sources: BTreeMap::new() };
        loaded.take_text(Path::new("settings"), text).and_then(|()| loaded.config.check()).map(|()| loaded)
    };
    let Ok(loaded) = read(text) else { return };
    let again = read(&loaded.to_text());
    let is_same = |again: &Loaded| {
        SETTINGS.iter().all(|setting| (setting.show)(&again.config) == (setting.show)(&loaded.config))
    };
    assert!(again.is_ok_and(|again| is_same(&again)), "settings aren't what was shown");
}
