//! A small file system of its own for an agent: one that can be filled, and turned read-only.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A loop-mounted ext4 where this machine can make one, else a tmpfs. Ends when it is dropped.
pub struct SmallDisk {
    place: PathBuf,
    image: Option<PathBuf>,
}

impl SmallDisk {
    pub fn mount(place: &Path, mib: u64) -> Self {
        fs::create_dir_all(place).expect("a directory can be made");
        let disk = Self::loop_mounted(place, mib).unwrap_or_else(|| {
            let options = format!("size={mib}m,mode=0711");
            mount(Some("none"), place, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
                .expect("root mounts a tmpfs");
            Self { place: place.to_owned(), image: None }
        });
        fs::set_permissions(place, fs::Permissions::from_mode(0o711)).expect("it is ours");
        disk
    }

    fn loop_mounted(place: &Path, mib: u64) -> Option<Self> {
        let image = place.with_extension("img");
        fs::File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("a sparse file can be made");
        // No blocks kept for root: a full disk is full for the agent as well.
        let made =
            Command::new("mkfs.ext4").args(["-q", "-m", "0", "-O", "^has_journal"]).arg(&image).status();
        let is_made = made.is_ok_and(|status| status.success());
        let mounted = || Command::new("mount").args(["-o", "loop"]).arg(&image).arg(place).status();
        if is_made && mounted().is_ok_and(|status| status.success()) {
            return Some(Self { place: place.to_owned(), image: Some(image) });
        }
        // It is no loss.
        let _ = fs::remove_file(&image);
        None
    }

    /// Lets whoever writes wait, as a disk does that has stopped answering; `None` where this file system can't.
    pub fn freeze(&self) -> Option<Frozen> {
        let frozen = Command::new("fsfreeze").arg("--freeze").arg(&self.place).status();
        frozen.is_ok_and(|status| status.success()).then(|| Frozen(self.place.clone()))
    }

    /// Lets nobody write, or everybody again.
    pub fn set_read_only(&self, is_read_only: bool) {
        let mut flags = MsFlags::MS_REMOUNT;
        flags.set(MsFlags::MS_RDONLY, is_read_only);
        // Not of this mount alone but of the file system, as the kernel does when a disk fails.
        mount(None::<&str>, &self.place, None::<&str>, flags, None::<&str>).expect("it can be remounted");
    }
}

/// A disk that takes no write until this is dropped: whoever writes stands still, and can't even be killed.
pub struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        let thawed = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).status();
        if !thawed.is_ok_and(|status| status.success()) {
            println!("{} stays frozen", self.0.display());
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // After a failed test something may still hold it; the directory around it then tells.
        let _ = umount2(&self.place, MntFlags::MNT_DETACH);
        if let Some(image) = &self.image {
            let _ = fs::remove_file(image);
        }
    }
}
