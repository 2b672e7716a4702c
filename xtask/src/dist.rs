//! The verb `dist`: Debian packages of the daemons and the command.
//!
//! Builds the programs, lets each write its own manual pages and example of settings, lays out one tree for
//! each package, and has `dpkg-deb` pack it. Needs nothing beyond a Debian that can build us.
//! Start at [`PACKAGES`]; the parts that are files lie in `deploy/`.
//!
//! ## Design
//!
//! No cargo-deb: a tree that can be looked at, and one tool less to install.
//! The same commit and compiler give the same bytes: owners, modes and times are set here.

mod notices;
mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::artifacts::{self, Artifacts};
use crate::command::{capture, program, root, run as run_command, target_dir};
use crate::{ebpf, setup};
use tree::{EXECUTABLE, PLAIN, Tree};

/// What to pack.
#[derive(clap::Args)]
pub struct Args {
    /// Appended to the version, for example `+rc1`.
    #[arg(long, default_value = "")]
    version_suffix: String,
    /// Pack programs that are quicker to build, and slower.
    #[arg(long)]
    debug: bool,
    /// Where the packages go [default: dist in the target directory].
    #[arg(long)]
    into: Option<PathBuf>,
}

/// One package, which carries the program of its name.
struct Package {
    name: &'static str,
    /// The cargo package of the program.
    krate: &'static str,
    manual_section: u32,
    /// From `deploy/`, with place and mode.
    files: &'static [(&'static str, &'static str, u32)],
    /// Its settings below `/etc/muster`, and what they say in a package beside the defaults.
    settings: Option<Settings>,
}

struct Settings {
    file: &'static str,
    /// Lines of the example, each with what stands in its place.
    changed: &'static [(&'static str, &'static str)],
}

const UNITS: &str = "/usr/lib/systemd/system";

const PACKAGES: &[Package] = &[
    Package {
        name: "muster-agent",
        krate: "agent",
        manual_section: 8,
        files: &[
            ("systemd/muster-agent.service", UNITS, PLAIN),
            ("systemd/muster-tasks.slice", UNITS, PLAIN),
            ("systemd/muster.slice", UNITS, PLAIN),
            ("hold-tasks", "/usr/lib/muster", EXECUTABLE),
        ],
        settings: Some(Settings {
            file: "agent.toml",
            changed: &[(
                "#cgroup-parent = \"muster\"",
                "# systemd owns every group but those that it was told to leave alone; this one is held by\n\
                 # muster-tasks.scope (`/usr/lib/muster/hold-tasks`).\n\
                 cgroup-parent = \"muster.slice/muster-tasks.slice/muster-tasks.scope/tasks\"",
            )],
        }),
    },
    Package {
        name: "muster-coordinator",
        krate: "coordinator",
        manual_section: 8,
        files: &[
            ("systemd/muster-coordinator.service", UNITS, PLAIN),
            ("sysusers.d/muster-coordinator.conf", "/usr/lib/sysusers.d", PLAIN),
        ],
        settings: Some(Settings { file: "coordinator.toml", changed: &[] }),
    },
    Package { name: "muster", krate: "cli", manual_section: 1, files: &[], settings: None },
];

/// Run by dpkg; a package has those that lie in its folder.
const SCRIPTS: &[&str] = &["postinst", "prerm", "postrm"];

/// The verb.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::Level::Dev)?;
    println!("dist: building the kernel programs");
    ebpf::build()?;
    println!("dist: building muster, muster-coordinator and muster-agent");
    let artifacts = artifacts::build_programs(!args.debug)?;
    let into = args.into.clone().unwrap_or_else(|| target_dir().join("dist"));
    for package in pack(&artifacts, &args.version_suffix, Compression::Small, &into)? {
        let size = package.metadata().context("a package that is gone")?.len();
        println!("dist: {} ({} KiB)", package.display(), size / 1024);
    }
    Ok(())
}

/// How packages are compressed.
#[derive(Debug, Clone, Copy)]
pub enum Compression {
    /// For those who download them.
    Small,
    /// For an emulated machine, which unpacks slower than it reads.
    Absent,
}

/// Packs programs that were built; answers the packages' files.
pub fn pack(
    artifacts: &Artifacts,
    version_suffix: &str,
    compression: Compression,
    into: &Path,
) -> Result<Vec<PathBuf>> {
    let version = format!("{}{version_suffix}", env!("CARGO_PKG_VERSION"));
    let architecture = capture(program("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let epoch = commit_time();
    std::fs::create_dir_all(into).with_context(|| format!("can't make {}", into.display()))?;
    let mut files = Vec::new();
    for package in PACKAGES {
        let built = artifacts.programs.get(package.name);
        let built = built.with_context(|| format!("cargo built no {}", package.name))?;
        let folder = target_dir().join("dist-trees").join(package.name);
        let tree = lay_out(package, built, &folder)?;
        tree.write_control(&control(package, &version, &architecture, &tree)?)?;
        let file = into.join(format!("{}_{version}_{architecture}.deb", package.name));
        let mut command = program("dpkg-deb");
        command.args(["--root-owner-group", "--uniform-compression"]).args(match compression {
            Compression::Small => ["-Zxz", "-z6"],
            Compression::Absent => ["-Znone", "-z0"],
        });
        command.arg("--build");
        command.arg(tree.folder()).arg(&file).env("SOURCE_DATE_EPOCH", &epoch);
        command.stdout(std::process::Stdio::null());
        run_command(&mut command)?;
        files.push(file);
    }
    Ok(files)
}

fn lay_out(package: &Package, built: &Path, folder: &Path) -> Result<Tree> {
    let tree = Tree::new(folder)?;
    let name = package.name;
    let stripped = tree.reserve(&format!("/usr/bin/{name}"))?;
    // Symbols stay, so that a panic names the function.
    run_command(program("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(built))?;
    tree.set_mode(&stripped, EXECUTABLE)?;

    let paper = folder.with_extension("paper");
    let _ = std::fs::remove_dir_all(&paper); // absent the first time
    std::fs::create_dir_all(&paper)?;
    run_command(program(built).arg("paper").arg(&paper))?;
    let manual = format!(".{}", package.manual_section);
    let mut pages = 0;
    for entry in std::fs::read_dir(&paper)? {
        let path = entry?.path();
        let file = path.file_name().and_then(|file| file.to_str()).context("a page without a name")?;
        if file.ends_with(&manual) {
            tree.copy(&path, &format!("/usr/share/man/man{}/{file}", package.manual_section), PLAIN)?;
            pages += 1;
        }
    }
    ensure!(pages > 0, "{name} wrote no manual page");
    for (shell, place) in [
        ("bash", format!("/usr/share/bash-completion/completions/{name}")),
        ("zsh", format!("/usr/share/zsh/vendor-completions/_{name}")),
        ("fish", format!("/usr/share/fish/vendor_completions.d/{name}.fish")),
    ] {
        let written = match shell {
            "bash" => paper.join(format!("{name}.bash")),
            "zsh" => paper.join(format!("_{name}")),
            _ => paper.join(format!("{name}.fish")),
        };
        tree.copy(&written, &place, PLAIN)?;
    }

    let deploy = root().join("deploy");
    for (file, place, mode) in package.files {
        let name = Path::new(file).file_name().and_then(|name| name.to_str()).context("a nameless file")?;
        tree.copy(&deploy.join(file), &format!("{place}/{name}"), *mode)?;
    }
    if let Some(settings) = &package.settings {
        let text = std::fs::read_to_string(paper.join(settings.file)).context("it wrote no settings")?;
        let place = format!("/etc/muster/{}", settings.file);
        tree.write(&place, change(&text, settings.changed)?.as_bytes(), PLAIN)?;
        tree.write("/DEBIAN/conffiles", format!("{place}\n").as_bytes(), PLAIN)?;
    }
    let documents = format!("/usr/share/doc/{name}");
    tree.copy(&deploy.join("debian/copyright"), &format!("{documents}/copyright"), PLAIN)?;
    let notices = notices::of(package.krate)?;
    tree.write(&format!("{documents}/third-party"), notices.as_bytes(), PLAIN)?;
    for script in SCRIPTS {
        let path = deploy.join("debian").join(name).join(script);
        if path.exists() {
            tree.copy(&path, &format!("/DEBIAN/{script}"), EXECUTABLE)?;
        }
    }
    Ok(tree)
}

/// The example with other lines in the place of some of its own.
fn change(text: &str, changed: &[(&str, &str)]) -> Result<String> {
    let mut text = text.to_owned();
    for (line, instead) in changed {
        if !text.lines().any(|own| own == *line) {
            bail!("the example of the settings has no line `{line}` any more: mend `PACKAGES`");
        }
        text = text.replace(line, instead);
    }
    Ok(text)
}

fn control(package: &Package, version: &str, architecture: &str, tree: &Tree) -> Result<String> {
    let path = root().join("deploy/debian").join(package.name).join("control");
    let template =
        std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    let program_path = tree.folder().join("usr/bin").join(package.name);
    let needs = capture(program("readelf").args(["--version-info", "--wide"]).arg(program_path))?;
    let rest = template.replace("{libraries}", &libraries(&needs)?);
    let size = tree.kibibytes()?;
    Ok(format!(
        "Package: {}\nVersion: {version}\nArchitecture: {architecture}\nInstalled-Size: {size}\n{rest}",
        package.name
    ))
}

/// The Debian packages that a program is linked with, from the symbol versions that it needs.
fn libraries(version_info: &str) -> Result<String> {
    let mut newest = None;
    for word in
        version_info.split(|letter: char| !letter.is_ascii_alphanumeric() && !matches!(letter, '_' | '.'))
    {
        let Some(version) = word.strip_prefix("GLIBC_") else { continue };
        let parts: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
        newest = newest.max(parts.map(|parts| (parts, version.to_owned())));
    }
    let (_, version) = newest.context("the program needs no libc, which can't be")?;
    Ok(format!("libc6 (>= {version}), libgcc-s1"))
}

/// When the checkout's commit was made; now, where there is no git.
fn commit_time() -> String {
    let told = capture(program("git").args(["log", "-1", "--format=%ct"])).map(|text| text.trim().to_owned());
    told.unwrap_or_else(|_| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs()).to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_version_counts() {
        let text = "  0x0010:   Name: GLIBC_2.9  Flags: none\n 004:   3 (GLIBC_2.34)  Name: GCC_3.0\n";
        assert_eq!(libraries(text).unwrap(), "libc6 (>= 2.34), libgcc-s1");
    }

    #[test]
    fn a_setting_that_is_gone_is_noticed() {
        assert_eq!(change("#a = 1\n#b = 2\n", &[("#b = 2", "b = 3")]).unwrap(), "#a = 1\nb = 3\n");
        assert!(change("#a = 1\n", &[("#b = 2", "b = 3")]).is_err());
    }

    #[test]
    fn every_file_of_every_package_is_there() {
        for package in PACKAGES {
            let deploy = root().join("deploy");
            for (file, ..) in package.files {
                assert!(deploy.join(file).is_file(), "{file}");
            }
            assert!(deploy.join("debian").join(package.name).join("control").is_file(), "{}", package.name);
        }
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        if crate::command::find("dpkg-deb").is_none() {
            eprintln!("skipped: no dpkg-deb is here");
            return;
        }
        let pack = |name: &str| {
            let base = std::env::temp_dir().join(format!("muster-dist-{}-{name}", std::process::id()));
            let tree = Tree::new(&base).unwrap();
            tree.write("/usr/bin/x", name.len().to_string().as_bytes(), EXECUTABLE).unwrap();
            tree.write_control("Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n")
                .unwrap();
            let file = base.with_extension("deb");
            let mut command = program("dpkg-deb");
            command.args(["--root-owner-group", "-Znone", "--build"]).arg(&base).arg(&file);
            run_command(command.env("SOURCE_DATE_EPOCH", "1000000000").stdout(std::process::Stdio::null()))
                .unwrap();
            let bytes = std::fs::read(&file).unwrap();
            std::fs::remove_file(&file).unwrap();
            std::fs::remove_dir_all(&base).unwrap();
            bytes
        };
        assert_eq!(pack("a"), pack("b"));
        assert_ne!(pack("a"), pack("aa"));
    }
}
