//! Profiles of system calls that the operator wrote: one JSON file each, in the agent's directory of them.
//!
//! A profile is what the crate `seccompiler` reads, under the key `task`. It holds for the task's init, too,
//! which is the agent's own: what that needs stands in `docs/guides/tasks.md`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use crate::sys::seccomp::{Instruction, Program};

/// Why there is no such profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("this host has no seccomp profile `{name}` (it would be {})", path.display())]
    Unknown { name: String, path: PathBuf },
    #[error("can't read the seccomp profile {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the seccomp profile {} is not valid", path.display())]
    Invalid { path: PathBuf, source: Box<seccompiler::Error> },
    #[error("the seccomp profile {} has no filter `task`", path.display())]
    NoFilter { path: PathBuf },
}

/// The compiled profiles of one directory.
pub struct Profiles {
    directory: PathBuf,
    /// With the time of change of the file that they were compiled from.
    compiled: Mutex<BTreeMap<String, (SystemTime, Program)>>,
}

impl Profiles {
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), compiled: Mutex::default() }
    }

    /// Compiles a profile unless it has done so since the file was changed. `name` is no path: specs are checked.
    pub fn get(&self, name: &str) -> Result<Program, ProfileError> {
        let path = self.directory.join(format!("{name}.json"));
        let read = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ProfileError::Unknown { name: name.to_owned(), path: path.clone() },
            _ => ProfileError::Read { path: path.clone(), source },
        };
        let changed = fs::metadata(&path).and_then(|data| data.modified()).map_err(read)?;
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((time, program)) = compiled.get(name)
            && *time == changed
        {
            return Ok(program.clone());
        }
        let program = compile(&path, &fs::read(&path).map_err(read)?)?;
        compiled.insert(name.to_owned(), (changed, program.clone()));
        Ok(program)
    }
}

pub(crate) fn compile(path: &Path, text: &[u8]) -> Result<Program, ProfileError> {
    let invalid = |source| ProfileError::Invalid { path: path.to_owned(), source: Box::new(source) };
    let architecture = std::env::consts::ARCH.try_into();
    let architecture = architecture.map_err(|error| invalid(seccompiler::Error::Backend(error)))?;
    let mut filters = seccompiler::compile_from_json(text, architecture).map_err(invalid)?;
    let filter = filters.remove("task").ok_or_else(|| ProfileError::NoFilter { path: path.to_owned() })?;
    let lines: Vec<Instruction> = filter
        .iter()
        .map(|line| Instruction { code: line.code, jt: line.jt, jf: line.jf, k: line.k })
        .collect();
    Ok(Arc::from(lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_compiled_again_when_its_file_was_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("strict.json");
        let write = |action: &str, age: u64| {
            let text = format!(
                r#"{{"task": {{"mismatch_action": {{"errno": 1}}, "match_action": "{action}", "filter": [{{"syscall": "mkdir"}}]}}}}"#
            );
            fs::write(&path, text).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        let profiles = Profiles::new(folder.path());
        write("allow", 1);
        let first = profiles.get("strict").unwrap();
        assert!(Arc::ptr_eq(&first, &profiles.get("strict").unwrap()));
        write("log", 2);
        let second = profiles.get("strict").unwrap();
        let answers = |program: &Program| program.iter().map(|line| line.k).collect::<Vec<_>>();
        assert_ne!(answers(&first), answers(&second));
    }

    #[test]
    fn what_is_no_profile_is_refused_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("bad.json"), "{").unwrap();
        fs::write(
            folder.path().join("other.json"),
            r#"{"main": {"mismatch_action": "allow", "match_action": "trap", "filter": []}}"#,
        )
        .unwrap();
        let profiles = Profiles::new(folder.path());
        assert!(matches!(profiles.get("none"), Err(ProfileError::Unknown { .. })));
        assert!(matches!(profiles.get("bad"), Err(ProfileError::Invalid { .. })));
        assert!(matches!(profiles.get("other"), Err(ProfileError::NoFilter { .. })));
    }
}
