//! Whose rights a task gets.

use std::ffi::CString;
use std::io;
use std::path::PathBuf;

use nix::unistd::{Gid, Uid, User};

/// A user with its groups, as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// For the environment (HOME), where the host knows it.
    pub home: Option<PathBuf>,
    /// As the host calls it, where it does.
    pub name: Option<String>,
}

/// Which users a task may run as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserPolicy {
    /// Whether uid 0 is allowed.
    pub is_root_allowed: bool,
    /// By name or number; `None` allows every user but root.
    pub allowed: Option<Vec<String>>,
}

/// Why no task may run as this user.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("this host has no user `{user}`")]
    Unknown { user: String },
    #[error("a task may not run as `{user}` here")]
    Refused { user: String },
    #[error("can't look up the user `{user}`")]
    Lookup { user: String, source: io::Error },
}

impl UserPolicy {
    /// Refuses whom the operator did not allow.
    pub fn judge(&self, identity: &Identity) -> Result<(), IdentityError> {
        let number = identity.uid.to_string();
        let is_named = |allowed: &String| Some(allowed) == identity.name.as_ref() || *allowed == number;
        let is_listed = self.allowed.as_ref().is_none_or(|allowed| allowed.iter().any(is_named));
        let is_root = identity.uid == 0 || identity.gid == 0 || identity.groups.contains(&0);
        if !is_listed || is_root && !self.is_root_allowed {
            let user = identity.name.clone().unwrap_or(number);
            return Err(IdentityError::Refused { user });
        }
        Ok(())
    }
}

/// The group of a user that the host does not know. Not a group of the same number: that might
/// be one with rights, as 42 is `shadow` on Debian.
const NO_GROUP: u32 = 65534;

/// Looks a user up by name, or by number if it is one; blocks as long as the host's user database.
pub(super) fn resolve(user: &str, policy: &UserPolicy) -> Result<Identity, IdentityError> {
    let unknown = || IdentityError::Unknown { user: user.to_owned() };
    let failed = |error: nix::Error| IdentityError::Lookup { user: user.to_owned(), source: error.into() };
    let number = user.parse::<u32>().ok().filter(|_| user.bytes().all(|byte| byte.is_ascii_digit()));
    let found = match number {
        // The kernel takes this number for "leave as it is", which would be root.
        Some(u32::MAX) => return Err(unknown()),
        Some(number) => User::from_uid(Uid::from_raw(number)).map_err(failed)?,
        None => User::from_name(user).map_err(failed)?,
    };
    let identity = match (found, number) {
        (Some(found), _) => {
            let name = CString::new(found.name.as_bytes()).map_err(|_| unknown())?;
            let groups = nix::unistd::getgrouplist(&name, found.gid).map_err(failed)?;
            Identity {
                uid: found.uid.as_raw(),
                gid: found.gid.as_raw(),
                groups: groups.into_iter().map(Gid::as_raw).collect(),
                home: Some(found.dir),
                name: Some(found.name),
            }
        }
        (None, Some(uid)) => Identity { uid, gid: NO_GROUP, groups: Vec::new(), home: None, name: None },
        (None, None) => return Err(unknown()),
    };
    policy.judge(&identity)?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_refused_by_name_and_number_unless_allowed() {
        let strict = UserPolicy::default();
        assert!(matches!(resolve("root", &strict), Err(IdentityError::Refused { .. })));
        assert!(matches!(resolve("0", &strict), Err(IdentityError::Refused { .. })));
        let lax = UserPolicy { is_root_allowed: true, allowed: None };
        assert_eq!(resolve("root", &lax).unwrap().uid, 0);
    }

    #[test]
    fn who_does_not_exist_is_unknown_and_minus_one_is_nobody() {
        let policy = UserPolicy { is_root_allowed: true, allowed: None };
        assert!(matches!(resolve("no-such-user-here", &policy), Err(IdentityError::Unknown { .. })));
        assert!(matches!(resolve("4294967295", &policy), Err(IdentityError::Unknown { .. })));
        assert!(matches!(resolve("-1", &policy), Err(IdentityError::Unknown { .. })));
        assert!(matches!(resolve("", &policy), Err(IdentityError::Unknown { .. })));
    }

    #[test]
    fn a_number_that_the_host_does_not_know_gets_no_group_with_rights() {
        let identity = resolve("3999999999", &UserPolicy::default()).unwrap();
        assert_eq!((identity.uid, identity.gid, identity.groups), (3_999_999_999, NO_GROUP, Vec::new()));
    }

    #[test]
    fn a_list_allows_by_name_or_number_and_none_else() {
        let policy = UserPolicy { is_root_allowed: false, allowed: Some(vec!["nobody".to_owned()]) };
        assert!(resolve("nobody", &policy).is_ok());
        assert!(resolve("65534", &policy).is_ok());
        assert!(matches!(resolve("daemon", &policy), Err(IdentityError::Refused { .. })));
    }
}
