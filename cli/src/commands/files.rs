//! The files of a task: list them, copy them out and in.
//!
//! What comes from a task is taken apart as what a stranger sent: nothing is written outside the target, and no
//! link that came along is followed.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{PermissionsExt as _, symlink},
    },
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use muster_client::{
    CopyError,
    channels::{FileFacts, FileKind},
};
use serde_json::{Value, json};

use super::Context;
use crate::{
    output::{json_time, print_rows, show_time, with_progress},
    report::{Attempted, Failure},
    units::show_bytes,
};

pub async fn list(context: &Context, id: &str, path: &str) -> Result<(), Failure> {
    let attempted = format!("list the files of task `{id}`");
    let (files, is_cut) = context.connection.list_files(id, path).await.attempted(&attempted)?;
    let rows = files.iter().map(|file| {
        vec![
            show_name(file),
            kind_name(file.kind()).to_owned(),
            if file.kind() == FileKind::File { show_bytes(file.size) } else { String::new() },
            format!("{:04o}", file.mode),
            show_time(file.modified_at_us),
        ]
    });
    let json = files.iter().map(|file| {
        json!({
            "name": String::from_utf8_lossy(&file.name),
            "kind": kind_name(file.kind()),
            "size": file.size,
            "mode": format!("{:04o}", file.mode),
            "modified_at": json_time(file.modified_at_us),
            "target": if file.target.is_empty() { Value::Null } else { String::from_utf8_lossy(&file.target).into() },
        })
    });
    let json = Value::Array(json.collect());
    print_rows(context.format, &["NAME", "KIND", "SIZE", "MODE", "MODIFIED"], rows.collect(), &json)?;
    if is_cut {
        eprintln!("there are more; these are the first {}", files.len());
    }
    Ok(())
}

/// A name may hold anything; a terminal shall not act on it.
fn show_name(file: &FileFacts) -> String {
    let plain = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string().replace("\\'", "'");
    match file.kind() {
        FileKind::Link => format!("{} -> {}", plain(&file.name), plain(&file.target)),
        FileKind::Directory => format!("{}/", plain(&file.name)),
        FileKind::File | FileKind::Other | FileKind::Unspecified => plain(&file.name),
    }
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Link => "link",
        FileKind::Other | FileKind::Unspecified => "other",
    }
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Here(PathBuf),
    Task { id: String, path: String },
}

impl End {
    /// A task id holds no slash, so a path with a colon in it can be written as `./a:b`.
    fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((id, path)) if !id.is_empty() && !id.contains('/') => {
                Self::Task { id: id.to_owned(), path: path.to_owned() }
            }
            _ => Self::Here(text.into()),
        }
    }
}

pub async fn copy(context: &Context, from: &str, to: &str) -> Result<(), Failure> {
    match (End::parse(from), End::parse(to)) {
        (End::Task { id, path }, End::Here(to)) => download(context, &id, &path, to).await,
        (End::Here(from), End::Task { id, path }) => upload(context, from, &id, &path).await,
        (End::Here(_), End::Here(_)) | (End::Task { .. }, End::Task { .. }) => {
            Err(Failure::new("copy", "one end must be in a task, and the other here")
                .next("write TASK:PATH for the one, and a plain path for the other")
                .misused())
        }
    }
}

pub async fn download(context: &Context, id: &str, path: &str, to: PathBuf) -> Result<(), Failure> {
    let attempted = format!("copy `{path}` from task `{id}`");
    let work = context.connection.read_files(id, path, move |archive| unpack(archive, &to));
    with_progress("copying", work).await.map_err(|error| failure(&attempted, &error))
}

async fn upload(context: &Context, from: PathBuf, id: &str, path: &str) -> Result<(), Failure> {
    let attempted = format!("copy `{}` to task `{id}`", from.display());
    // Also of `.` and `..`.
    let whole = fs::canonicalize(&from).attempted(&attempted)?;
    let name = whole.file_name().map_or_else(|| OsString::from("files"), OsStr::to_owned);
    let work =
        context.connection.write_files(id, path, move |archive| pack(archive, &from, Path::new(&name)));
    with_progress("copying", work).await.map_err(|error| failure(&attempted, &error))
}

fn failure(attempted: &str, error: &CopyError) -> Failure {
    match error {
        CopyError::Client(error) => Failure::from_client(attempted, error),
        CopyError::Local(error) => Failure::new(attempted, error.to_string()),
    }
}

fn pack(archive: &mut dyn Write, from: &Path, name: &Path) -> io::Result<()> {
    let mut builder = tar::Builder::new(archive);
    builder.follow_symlinks(false);
    // What was named is meant, even where it is a link.
    if fs::metadata(from)?.is_dir() {
        builder.append_dir_all(name, from)?;
    } else {
        builder.append_file(name, &mut File::open(from)?)?;
    }
    builder.into_inner()?.flush()
}

/// The archive's one top name becomes `to`, or goes into it where that is a directory.
fn unpack(archive: &mut dyn Read, to: &Path) -> io::Result<()> {
    let is_directory = to.is_dir();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        let refused =
            |why: &str| io::Error::other(format!("the agent sent `{}`, which {why}", name.display()));
        let mut parts = name.components();
        let Some(Component::Normal(first)) = parts.next() else { return Err(refused("is absolute")) };
        let below = parts.as_path();
        if below.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(refused("leads out of the copy"));
        }
        let base = if is_directory { to.join(first) } else { to.to_owned() };
        let target: PathBuf = base.join(below).components().collect();
        // A link that came earlier could lead a later file anywhere.
        let is_through_link = |path: &Path| fs::symlink_metadata(path).is_ok_and(|facts| facts.is_symlink());
        if target.ancestors().skip(1).take_while(|above| above.starts_with(&base)).any(is_through_link) {
            return Err(refused("leads through a link"));
        }
        let failed =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", target.display()));
        match entry.header().entry_type() {
            tar::EntryType::Directory => make_directory(&target).map_err(failed)?,
            tar::EntryType::Regular => {
                remove_file(&target).map_err(failed)?;
                let mut file = File::create_new(&target).map_err(failed)?;
                io::copy(&mut entry, &mut file).map_err(failed)?;
                let mode = entry.header().mode()? & 0o777;
                file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
                let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(entry.header().mtime()?);
                file.set_modified(modified).map_err(failed)?;
            }
            tar::EntryType::Symlink => {
                remove_file(&target).map_err(failed)?;
                let leads_to = entry.link_name_bytes().ok_or_else(|| refused("is a link to nowhere"))?;
                symlink(OsStr::from_bytes(&leads_to), &target).map_err(failed)?;
            }
            _ => return Err(refused("is of a kind that is not copied")),
        }
    }
    Ok(())
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error)
            if error.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(path)?.is_dir() =>
        {
            Ok(())
        }
        other => other,
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_separates_a_task_from_a_path() {
        let task = |id: &str, path: &str| End::Task { id: id.to_owned(), path: path.to_owned() };
        assert_eq!(End::parse("a.1:b/c"), task("a.1", "b/c"));
        assert_eq!(End::parse("a.1:"), task("a.1", ""));
        assert_eq!(End::parse("./a:b"), End::Here("./a:b".into()));
        assert_eq!(End::parse(":b"), End::Here(":b".into()));
        assert_eq!(End::parse("plain"), End::Here("plain".into()));
    }

    #[test]
    fn a_names_control_characters_are_shown_and_not_obeyed() {
        let file = FileFacts { name: b"a\x1b[2Jb'\xff".to_vec().into(), kind: 1, ..FileFacts::default() };
        assert_eq!(show_name(&file), "a\\u{1b}[2Jb'\u{fffd}");
    }

    fn archive(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name, target) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_mtime(1);
            header.set_size(0);
            let gnu = header.as_gnu_mut().unwrap();
            gnu.name[..name.len()].copy_from_slice(name.as_bytes());
            gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_cksum();
            builder.append(&header, io::empty()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn an_agent_that_lies_writes_nothing_outside() {
        use tar::EntryType::{Directory, Link, Regular, Symlink};
        let place = std::env::temp_dir().join(format!("muster-files-{}", std::process::id()));
        fs::create_dir(&place).unwrap();
        let target = place.join("target");
        for (entries, is_fine) in [
            (vec![(Regular, "../evil", "")], false),
            (vec![(Regular, "/tmp/evil", "")], false),
            (vec![(Directory, "d", ""), (Symlink, "d/l", ".."), (Regular, "d/l/evil", "")], false),
            (vec![(Symlink, "l", "/"), (Regular, "l/evil", "")], false),
            (vec![(Link, "hard", "/etc/passwd")], false),
            (vec![(Directory, "d", ""), (Symlink, "d/l", "/etc"), (Regular, "d/l", "")], true),
        ] {
            let outcome = unpack(&mut &archive(&entries)[..], &target);
            assert_eq!(outcome.is_ok(), is_fine, "{entries:?}: {outcome:?}");
            assert!(!place.join("evil").exists());
            let _ = fs::remove_dir_all(&target).or_else(|_| fs::remove_file(&target));
        }
        fs::remove_dir_all(&place).unwrap();
    }
}
