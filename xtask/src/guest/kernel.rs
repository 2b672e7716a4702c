//! A Debian kernel, fetched by apt and unpacked, not installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{capture, program, run, target_dir};
use crate::setup::download_package;

/// Modules that the tests need and that the cloud kernel doesn't have built in.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "ext4", "bfq", "overlay", "veth", "loop"];

/// What a machine that only reaches a Debian on its disks needs.
const DISK_MODULES: &[&str] = &["virtio_pci", "virtio_blk", "ext4"];

/// An unpacked kernel package.
#[derive(Debug)]
pub struct KernelTree {
    pub image: PathBuf,
    /// Unpacked modules, in the order in which they are loaded.
    pub modules: Vec<PathBuf>,
    /// Likewise, for disks.
    pub disk_modules: Vec<PathBuf>,
}

/// The package that always depends on the newest kernel of a series.
fn meta_package(series: &str) -> Result<&'static str> {
    match series {
        "6.1" => Ok("linux-image-cloud-amd64"),
        "6.12" => Ok("linux-image-6.12-cloud-amd64"),
        _ => bail!("kernel {series} is not one that Debian 12 has: try 6.12 or 6.1"),
    }
}

/// Downloads the newest kernel of `series`, or takes the one that was downloaded before.
pub fn fetch(series: &str) -> Result<KernelTree> {
    let meta = meta_package(series)?;
    let depends = capture(program("apt-cache").env("LC_ALL", "C").args(["depends", meta]))
        .context("can't ask apt for kernels")?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{meta} is in no package list: run `apt-get update`, then try again"))?;
    let release = package.trim_start_matches("linux-image-").to_owned();

    let folder = target_dir().join("guest").join(&release);
    let stamp = folder.join("complete");
    let prepared = [MODULES, DISK_MODULES].map(|modules| modules.join(" ")).join("\n");
    if std::fs::read_to_string(&stamp).unwrap_or_default() != prepared {
        println!("  fetching {package}");
        let _ = std::fs::remove_dir_all(&folder); // absent the first time
        let unpacked = download_package(package)?;
        std::fs::create_dir_all(target_dir().join("guest"))?;
        std::fs::rename(&unpacked, &folder).context("can't move the unpacked kernel into its place")?;
        run(program("depmod").arg("-b").arg(&folder).arg(&release))?;
        prepare_modules(&folder, &release, MODULES, "modules.list")?;
        prepare_modules(&folder, &release, DISK_MODULES, "disk-modules.list")?;
        std::fs::write(&stamp, prepared)?;
    }
    let image = folder.join("boot").join(format!("vmlinuz-{release}"));
    if !image.exists() {
        bail!("{package} has no kernel at {}", image.display());
    }
    let listed = |list: &str| -> Result<Vec<PathBuf>> {
        let names = std::fs::read_to_string(folder.join(list))?;
        Ok(names.lines().map(|name| folder.join("modules").join(name)).collect())
    };
    Ok(KernelTree { image, modules: listed("modules.list")?, disk_modules: listed("disk-modules.list")? })
}

/// Finds the wanted modules with what they depend on, unpacks them, and notes their order.
fn prepare_modules(folder: &Path, release: &str, wanted: &[&str], list: &str) -> Result<()> {
    let into = folder.join("modules");
    std::fs::create_dir_all(&into)?;
    let mut names: Vec<String> = Vec::new();
    for module in wanted {
        let mut command = program("modprobe");
        command.arg("-d").arg(folder).args(["-S", release, "--show-depends", module]);
        for path in capture(&mut command)?.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let path = Path::new(path.trim());
            let file = path.file_name().and_then(|name| name.to_str()).context("a module without a name")?;
            let name = file.trim_end_matches(".xz").to_owned();
            if names.contains(&name) {
                continue;
            }
            if file.ends_with(".xz") {
                let output = program("xz").arg("-dc").arg(path).output().context("can't start `xz`")?;
                std::fs::write(into.join(&name), output.stdout)?;
            } else {
                std::fs::copy(path, into.join(&name))?;
            }
            names.push(name);
        }
    }
    std::fs::write(folder.join(list), names.join("\n"))?;
    Ok(())
}
