//! What a package of this program ships beside it: manual pages, completion, an example of its settings.
//!
//! Written from the definitions that the program itself runs with, so that they can't go stale.
//! `cargo xtask dist` asks for them.

use std::{fs, io, path::Path};

use clap::Command;
use clap_complete::aot::{Shell, generate_to};

use crate::config::SETTINGS;

/// The section of a system's manual that is about daemons (man-pages(7)).
const MANUAL_SECTION: &str = "8";

/// Writes all of it into a directory: `*.8`, one file for each shell, and `agent.toml`.
pub fn write(command: Command, into: &Path) -> io::Result<()> {
    let name = command.get_name().to_owned();
    let mut command = command;
    // Builds the names of the verbs, too, which their pages are called by.
    command.build();
    write_manual(&command, into)?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        let page = verb.get_display_name().unwrap_or_else(|| verb.get_name()).to_owned();
        write_manual(&verb.clone().name(page), into)?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, &name, into)?;
    }
    fs::write(into.join("agent.toml"), settings_example())
}

fn write_manual(command: &Command, into: &Path) -> io::Result<()> {
    let page = clap_mangen::Man::new(command.clone()).section(MANUAL_SECTION).manual("Muster");
    let mut text = Vec::new();
    page.render(&mut text)?;
    fs::write(into.join(page.get_filename()), text)
}

/// Every setting with its help, commented, at its default.
pub fn settings_example() -> String {
    let mut text = String::from("# Settings of muster-agent.\n");
    text += "# Each line shows a default; take away its `#` to change it.\n";
    text +=
        "# The environment (MUSTER_AGENT_ and the name in capitals) and flags count more than this file.\n";
    for setting in SETTINGS {
        let value = toml::Value::String(setting.default_text());
        text += &format!("\n# {}\n#{} = {value}\n", setting.help, setting.key);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Loaded};

    #[test]
    fn an_example_names_every_setting_and_changes_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), settings_example()).unwrap();
        let loaded = Loaded::load(Some(file.path()), [], []).unwrap();
        assert_eq!(loaded.config, Config::default());
        let with_a_default = || SETTINGS.iter().filter(|setting| !setting.default_text().is_empty());
        let uncommented: String = with_a_default()
            .map(|setting| {
                let start = format!("#{} = ", setting.key);
                let example = settings_example();
                let line = example.lines().find(|line| line.starts_with(&start)).unwrap().to_owned();
                format!("{}\n", &line[1..])
            })
            .collect();
        fs::write(file.path(), uncommented).unwrap();
        let loaded = Loaded::load(Some(file.path()), [], []).unwrap();
        assert_eq!(loaded.config, Config::default());
    }
}
