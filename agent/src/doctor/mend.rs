//! What of a host's settings can be mended: what it is, why, what would be done, and how to undo it.
//!
//! [`wanted`] only looks. [`Mend::execute`] changes the running kernel and writes the setting down for the
//! next boot; it is only called for what somebody agreed to.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use model::PortRanges;

/// Where the kernel's settings are, and where those of the next boot are written down.
#[derive(Debug, Clone)]
pub struct Places {
    pub running: PathBuf,
    pub written: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        // sysctl.d(5): an administrator's own files come after packages' of the same name.
        Self { running: "/proc/sys".into(), written: "/etc/sysctl.d/60-muster.conf".into() }
    }
}

/// One setting that should be another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mend {
    /// As sysctl(8) has it.
    pub key: &'static str,
    pub found: String,
    pub wanted: String,
    pub why: &'static str,
}

/// Tasks of one user share this many; the kernel's default of 128 is gone after a hundred of them.
const INOTIFY_INSTANCES_MIN: u64 = 8192;

/// Everything that should be another way, in a fixed order; what this kernel doesn't have is left out.
pub fn wanted(places: &Places, ports: &PortRanges) -> Vec<Mend> {
    let mut mends = Vec::new();
    let mut check = |key, why, judge: &dyn Fn(&str) -> Option<String>| {
        let Ok(found) = fs::read_to_string(path_of(&places.running, key)) else { return };
        let found = found.trim().to_owned();
        if let Some(wanted) = judge(&found) {
            mends.push(Mend { key, found, wanted, why });
        }
    };
    check(
        "kernel.unprivileged_bpf_disabled",
        "tasks could load kernel programs of their own, and look at the kernel through them",
        // 1 can't be taken back before the next boot; 2 can.
        &|found| (found == "0").then(|| "2".to_owned()),
    );
    check(
        "fs.inotify.max_user_instances",
        "tasks of one user share them: the hundredth one that watches files would fail",
        &|found| at_least(found, INOTIFY_INSTANCES_MIN),
    );
    let first_last = fs::read_to_string(path_of(&places.running, "net.ipv4.ip_local_port_range"));
    let chosen = first_last.ok().and_then(|text| ephemeral(&text));
    check(
        "net.ipv4.ip_local_reserved_ports",
        "the kernel could give a port that is meant for tasks to any connection that goes out",
        &|found| reserved_too(found, ports, chosen?),
    );
    mends
}

fn at_least(found: &str, least: u64) -> Option<String> {
    (found.parse::<u64>().ok()? < least).then(|| least.to_string())
}

fn ephemeral(text: &str) -> Option<(u32, u32)> {
    let mut words = text.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// The reserved ports with those of tasks that the kernel would choose from.
fn reserved_too(found: &str, ports: &PortRanges, chosen: (u32, u32)) -> Option<String> {
    let reserved: Vec<(u32, u32)> = found.split(',').filter_map(range).collect();
    let is_reserved = |port| reserved.iter().any(|(first, last)| (*first..=*last).contains(&port));
    let mut wanted: Vec<String> =
        found.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let before = wanted.len();
    for part in ports.to_string().split(',') {
        let Some((first, last)) = range(part) else { continue };
        let (first, last) = (first.max(chosen.0), last.min(chosen.1));
        if first <= last && !(first..=last).all(is_reserved) {
            wanted.push(format!("{first}-{last}"));
        }
    }
    (wanted.len() > before).then(|| wanted.join(","))
}

fn range(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

impl Mend {
    /// What is wrong and why it matters, what would be done, and how it is undone.
    pub fn describe(&self, places: &Places) -> String {
        let Self { key, found, wanted, why } = self;
        format!(
            "{key} is `{found}`: {why}\n    mend: sysctl --write '{key}={wanted}', and the same line in {written}\n    \
             undo: sysctl --write '{key}={found}', and remove the line\n",
            written = places.written.display(),
        )
    }

    /// Changes the running kernel first: what it refuses isn't written down.
    pub fn execute(&self, places: &Places) -> io::Result<()> {
        fs::write(path_of(&places.running, self.key), &self.wanted)?;
        let text = match fs::read_to_string(&places.written) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                "# Written by `muster-agent doctor --fix`; see its report.\n".to_owned()
            }
            text => text?,
        };
        let is_ours = |line: &&str| line.split_once('=').is_some_and(|(key, _)| key.trim() == self.key);
        let mut lines: Vec<&str> = text.lines().filter(|line| !is_ours(line)).collect();
        let line = format!("{} = {}", self.key, self.wanted);
        lines.push(&line);
        if let Some(folder) = places.written.parent() {
            fs::create_dir_all(folder)?;
        }
        // Beside and renamed: half a file would be half a boot.
        let fresh = places.written.with_extension("conf.new");
        let mut file = fs::File::create(&fresh)?;
        file.write_all((lines.join("\n") + "\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &places.written)
    }
}

fn path_of(running: &Path, key: &str) -> PathBuf {
    running.join(key.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn host(settings: &[(&str, &str)]) -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { running: dir.path().join("sys"), written: dir.path().join("etc/60.conf") };
        for (key, value) in settings {
            let path = path_of(&places.running, key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        (dir, places)
    }

    fn ports(text: &str) -> PortRanges {
        let (first, last) = range(text).unwrap();
        PortRanges::new(vec![model::PortRange::new(first, last).unwrap()]).unwrap()
    }

    fn shown(mends: &[Mend]) -> String {
        mends.iter().map(|mend| format!("{} {:?} -> {}\n", mend.key, mend.found, mend.wanted)).collect()
    }

    const POOR: &[(&str, &str)] = &[
        ("kernel.unprivileged_bpf_disabled", "0"),
        ("fs.inotify.max_user_instances", "128"),
        ("net.ipv4.ip_local_port_range", "31500\t60999"),
        ("net.ipv4.ip_local_reserved_ports", "40000"),
    ];

    #[test]
    fn what_can_be_mended_is_found_and_only_that() {
        let (_dir, places) = host(POOR);
        expect![[r#"
            kernel.unprivileged_bpf_disabled "0" -> 2
            fs.inotify.max_user_instances "128" -> 8192
            net.ipv4.ip_local_reserved_ports "40000" -> 40000,31500-32000
        "#]]
        .assert_eq(&shown(&wanted(&places, &ports("31000-32000"))));
        let (_dir, places) = host(&[
            ("kernel.unprivileged_bpf_disabled", "1"),
            ("fs.inotify.max_user_instances", "100000"),
            ("net.ipv4.ip_local_port_range", "32768 60999"),
            ("net.ipv4.ip_local_reserved_ports", ""),
        ]);
        assert_eq!(wanted(&places, &ports("31000-32000")), []);
        let (_dir, places) = host(&[]);
        assert_eq!(wanted(&places, &ports("31000-32000")), []);
    }

    #[test]
    fn what_was_mended_needs_no_mending_now_or_after_a_boot() {
        let (_dir, places) = host(POOR);
        fs::create_dir_all(places.written.parent().unwrap()).unwrap();
        fs::write(&places.written, "# mine\nfs.inotify.max_user_instances=1\nvm.swappiness=1\n").unwrap();
        for mend in wanted(&places, &ports("31000-32000")) {
            mend.execute(&places).unwrap();
        }
        assert_eq!(wanted(&places, &ports("31000-32000")), []);
        expect![[r#"
            # mine
            vm.swappiness=1
            kernel.unprivileged_bpf_disabled = 2
            fs.inotify.max_user_instances = 8192
            net.ipv4.ip_local_reserved_ports = 40000,31500-32000
        "#]]
        .assert_eq(&fs::read_to_string(&places.written).unwrap());
    }

    #[test]
    fn a_person_reads_what_why_and_how_back() {
        let (_dir, places) = host(&[("kernel.unprivileged_bpf_disabled", "0")]);
        let places = Places { written: "/etc/x.conf".into(), ..places };
        let mends = wanted(&places, &ports("31000-32000"));
        expect![[r#"
            kernel.unprivileged_bpf_disabled is `0`: tasks could load kernel programs of their own, and look at the kernel through them
                mend: sysctl --write 'kernel.unprivileged_bpf_disabled=2', and the same line in /etc/x.conf
                undo: sysctl --write 'kernel.unprivileged_bpf_disabled=0', and remove the line
        "#]]
        .assert_eq(&mends[0].describe(&places));
    }
}
