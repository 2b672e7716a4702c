//! Attacks on files, devices and mounts.

use std::{
    env,
    ffi::CString,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt as _, symlink},
    path::Path,
};

use crate::{Outcome, Target, all_must_fail, in_a_child, kernel::mount, must_fail, syscall};

fn text(path: &str) -> CString {
    CString::new(path).unwrap_or_default()
}

fn is_root() -> bool {
    // SAFETY: it only asks.
    unsafe { libc::geteuid() == 0 }
}

pub fn read_private_files(target: &Target) -> Outcome {
    let mut paths = vec![target.private.clone()];
    if !is_root() {
        paths.extend(["/etc/shadow", "/etc/gshadow", "/var/lib/muster"].map(str::to_owned));
    }
    let there = paths.into_iter().filter(|path| Path::new(path).exists() || *path == target.private);
    all_must_fail(there.map(|path| {
        let read = match fs::read_dir(&path) {
            // Hidden behind an empty directory is as good as closed.
            Ok(mut entries) => match entries.next() {
                None => Err(io::Error::other("it is empty here")),
                Some(_) => Ok(()),
            },
            Err(_) => fs::read(&path).map(drop),
        };
        (path, read)
    }))
}

/// What root could change would become root's on the host. Opened for writing only; nothing is written.
pub fn change_files_of_the_host(_: &Target) -> Outcome {
    let files = ["/etc/passwd", "/usr/bin/env", "/bin/sh", "/etc/ld.so.cache"];
    let there = files.iter().filter(|path| Path::new(path).exists());
    all_must_fail(
        there.map(|path| ((*path).to_owned(), OpenOptions::new().append(true).open(path).map(drop))),
    )
}

pub fn enter_the_neighbours_directory(target: &Target) -> Outcome {
    let place = Path::new(&target.neighbour_directory);
    let written =
        fs::write(place.join("sandbox/attack"), "x").or_else(|_| fs::write(place.join("stdout"), "x"));
    all_must_fail([
        ("list it".to_owned(), fs::read_dir(place).map(drop)),
        ("read its output".to_owned(), fs::read(place.join("stdout")).map(drop)),
        ("write into it".to_owned(), written),
    ])
}

pub fn make_a_device(_: &Target) -> Outcome {
    // The numbers of /dev/mem, and of the first disk of a virtual machine.
    let tries = [(libc::S_IFCHR, 1, 1), (libc::S_IFBLK, 254, 0)];
    all_must_fail(tries.map(|(kind, major, minor)| {
        let path = text("device");
        let (mode, device) = ((kind | 0o600) as usize, libc::makedev(major, minor) as usize);
        let made =
            syscall(libc::SYS_mknodat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, mode, device, 0, 0]);
        if made.is_ok() {
            // It is of no use if it can't be opened; taken away again in either case.
            let opened = OpenOptions::new().read(true).open("device").map(drop);
            let _ = fs::remove_file("device");
            return (format!("make and open {major}:{minor}"), opened);
        }
        (format!("make {major}:{minor}"), made.map(drop))
    }))
}

pub fn open_a_disk(_: &Target) -> Outcome {
    let Ok(entries) = fs::read_dir("/dev") else { return Outcome::Absent("no /dev".to_owned()) };
    let disks = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_block_device()));
    all_must_fail(disks.map(|disk| {
        let path = disk.path();
        (path.display().to_string(), OpenOptions::new().read(true).open(&path).map(drop))
    }))
}

/// Opens a file by its number, past every directory that is closed (CVE-2014-3519 and its kin).
pub fn open_by_handle(_: &Target) -> Outcome {
    // The handle of inode 2, the root of an ext4: size 8, type 1, inode and generation.
    let handle: [u32; 4] = [8, 1, 2, 0];
    let root = match fs::File::open("/") {
        Ok(root) => root,
        Err(error) => return Outcome::Contained(error.to_string()),
    };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&root) as usize;
    let opened = syscall(libc::SYS_open_by_handle_at, [fd, handle.as_ptr() as usize, 0, 0, 0, 0]).map(drop);
    match opened {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
            Outcome::Contained(error.to_string())
        }
        other => Outcome::Escaped(format!("it was let in: {other:?}")),
    }
}

pub fn mount_something(_: &Target) -> Outcome {
    let kinds = ["tmpfs", "proc", "sysfs", "bpf", "debugfs", "tracefs", "overlay"];
    all_must_fail(kinds.map(|kind| (format!("mount {kind}"), in_a_child(|| mount(kind, "/tmp", "")))))
}

pub fn change_root(_: &Target) -> Outcome {
    let here = text(".");
    let at = here.as_ptr() as usize;
    let pivoted = in_a_child(|| syscall(libc::SYS_pivot_root, [at, at, 0, 0, 0, 0]).map(drop));
    let unmounted = in_a_child(|| {
        let path = text("/proc");
        syscall(libc::SYS_umount2, [path.as_ptr() as usize, libc::MNT_DETACH as usize, 0, 0, 0, 0]).map(drop)
    });
    all_must_fail([("pivot_root".to_owned(), pivoted), ("unmount /proc".to_owned(), unmounted)])
}

/// The agent opens, trims and reads outputs as root: what lies there must not be the task's choice.
pub fn replace_its_output_by_a_link(_: &Target) -> Outcome {
    let Ok(sandbox) = env::var("MUSTER_SANDBOX") else {
        return Outcome::Escaped("no MUSTER_SANDBOX".to_owned());
    };
    let Some(above) = Path::new(&sandbox).parent() else { return Outcome::Escaped("no parent".to_owned()) };
    if !above.join("stdout").exists() {
        return Outcome::Contained("it can't see its outputs".to_owned());
    }
    all_must_fail([
        ("remove stdout".to_owned(), fs::remove_file(above.join("stdout"))),
        ("put a link beside it".to_owned(), symlink("/etc/shadow", above.join("link"))),
        ("rename its sandbox".to_owned(), fs::rename(&sandbox, above.join("other"))),
        ("replace its sandbox".to_owned(), fs::remove_dir(&sandbox)),
    ])
}

pub fn forge_its_exit_record(_: &Target) -> Outcome {
    let Ok(sandbox) = env::var("MUSTER_SANDBOX") else {
        return Outcome::Escaped("no MUSTER_SANDBOX".to_owned());
    };
    let record = Path::new(&sandbox).parent().map(|above| above.join("exit")).unwrap_or_default();
    let open_descriptors: Vec<String> = fs::read_dir("/proc/self/fd")
        .map(|entries| {
            entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect::<Vec<_>>()
        })
        .unwrap_or_default()
        .iter()
        .map(|path| path.display().to_string())
        .filter(|path| path.ends_with("/exit") || path.contains("cgroup") || path.contains("bpf"))
        .collect();
    if !open_descriptors.is_empty() {
        return Outcome::Escaped(format!("it holds {}", open_descriptors.join(", ")));
    }
    must_fail("write its exit record", OpenOptions::new().write(true).open(record).map(drop))
}
