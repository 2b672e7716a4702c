//! `muster task profile`: where a task spends its CPU time, as a picture or as text.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};

use inferno::flamegraph::{
    Options,
    color::{MultiPalette, Palette},
};
use muster_client::Profiled;
use serde_json::json;

use super::Context;
use crate::{
    arguments::{Format, Profile},
    output::{with_progress, write_all},
    report::{Attempted, Failure},
};

/// Stdout, by its old name.
const STDOUT: &str = "-";
/// Wide enough for names, and fits on a screen.
const PICTURE_WIDTH: usize = 1400;

pub async fn profile(context: &Context, wish: Profile) -> Result<(), Failure> {
    let Profile { id, seconds, frequency, file, folded } = wish;
    let attempted = format!("profile task `{id}`");
    let stop = async {
        // Without it, the time alone ends the profile.
        let _ = tokio::signal::ctrl_c().await;
    };
    let duration = Duration::from_secs(seconds.into());
    let work = context.connection.profile(&id, duration, frequency, stop);
    let what = format!("sampling for {seconds} s; Ctrl-C ends it and draws what is there");
    let Profiled { folded: text, samples, lost } = with_progress(&what, work).await.attempted(&attempted)?;
    if samples == 0 {
        let why =
            format!("it used no CPU in {} that was sampled", if lost == 0 { "any moment" } else { "time" });
        return Err(Failure::new(&attempted, why)
            .next("`muster top` shows whether it runs; ask for more --seconds or a higher --frequency"));
    }
    let lines = merged(&text);
    let bytes = match folded {
        true => {
            lines.iter().map(|(stack, count)| format!("{stack} {count}\n")).collect::<String>().into_bytes()
        }
        false => draw(&lines, &id, samples, frequency).attempted("draw the profile")?,
    };
    let target = file.unwrap_or_else(|| match folded {
        true => STDOUT.to_owned(),
        false => format!("{id}.svg"),
    });
    if target == STDOUT {
        write_all(&mut io::stdout().lock(), &bytes)?;
    } else {
        fs::write(Path::new(&target), &bytes).attempted(&format!("write {target}"))?;
    }
    let told = match context.format {
        Format::Json if target != STDOUT => {
            let facts = json!({ "file": target, "samples": samples, "lost": lost });
            return write_all(&mut io::stdout().lock(), format!("{facts}\n").as_bytes());
        }
        Format::Json | Format::Table => match lost {
            0 => format!("{samples} samples, none lost"),
            lost => format!("{samples} samples, {lost} lost"),
        },
    };
    let place = if target == STDOUT { String::new() } else { format!("; written to {target}") };
    // To people, beside whatever stdout gets.
    let _ = writeln!(io::stderr(), "{told}{place}");
    if !io::stderr().is_terminal() {
        return Ok(());
    }
    if is_blind(&lines) {
        let _ = writeln!(io::stderr(), "most stacks are short: was it built without frame pointers?");
    }
    Ok(())
}

/// Equal stacks once: other addresses of the same functions are told apart by the agent.
fn merged(text: &str) -> BTreeMap<&str, u64> {
    let mut lines = BTreeMap::new();
    for line in text.lines() {
        if let Some((stack, count)) = line.rsplit_once(' ')
            && let Ok(count) = count.parse::<u64>()
        {
            *lines.entry(stack).or_default() += count;
        }
    }
    lines
}

/// Whether most of the time is in stacks of the process and one or two frames of its own.
fn is_blind(lines: &BTreeMap<&str, u64>) -> bool {
    let all: u64 = lines.values().sum();
    let depth = |stack: &str| stack.split(';').filter(|frame| !frame.ends_with("_[k]")).count();
    let short: u64 = lines.iter().filter(|(stack, _)| depth(stack) <= 3).map(|(_, count)| count).sum();
    short * 2 > all
}

fn draw(lines: &BTreeMap<&str, u64>, id: &str, samples: u64, frequency: u32) -> io::Result<Vec<u8>> {
    let mut options = Options::default();
    options.title = format!("CPU time of task {id}");
    options.subtitle = Some(format!("{samples} samples, {frequency} a second on each CPU"));
    options.count_name = "samples".to_owned();
    options.image_width = Some(PICTURE_WIDTH);
    // Names of the kernel's functions end with `_[k]`; this palette sets them apart.
    options.colors = Palette::Multi(MultiPalette::Java);
    options.deterministic = true;
    let lines: Vec<String> = lines.iter().map(|(stack, count)| format!("{stack} {count}")).collect();
    let mut picture = Vec::new();
    inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut picture)?;
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_stacks_are_one() {
        let lines = merged("a;b c 1\na;b 2\na;b c 3\nnonsense\n");
        assert_eq!(lines, BTreeMap::from([("a;b c", 4), ("a;b", 2)]));
    }

    #[test]
    fn names_are_text_in_the_picture_whatever_they_are() {
        let lines = merged("p;<script>alert(1)</script>;x\"&y_[k] 5\n");
        let picture = String::from_utf8(draw(&lines, "t.1", 5, 99).unwrap()).unwrap();
        assert!(picture.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{picture}");
        assert!(!picture.contains("<script>alert"));
        assert!(picture.contains("CPU time of task t.1") && picture.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn stacks_without_depth_are_noticed() {
        assert!(is_blind(&BTreeMap::from([("p;a", 9), ("p;a;b;c;d", 1)])));
        assert!(!is_blind(&BTreeMap::from([("p;a;b;c", 9), ("p;a;k_[k]", 1)])));
    }
}
