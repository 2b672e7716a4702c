//! Whose rights a task gets.

use std::ffi::CString;
use std::io;
use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User};

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
    /// Supplementary groups that any task may have, by name or number, beyond those of its user.
    pub groups: Vec<String>,
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
    #[error("this host has no group `{group}`")]
    UnknownGroup { group: String },
    #[error(
        "a task of `{user}` may not have the group `{group}` here: it is not the user's own, and `allow-groups` doesn't name it"
    )]
    RefusedGroup { user: String, group: String },
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
///
/// `groups`: those to have instead of all of the user's own.
pub(super) fn resolve(user: &str, groups: &[String], policy: &UserPolicy) -> Result<Identity, IdentityError> {
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
    if groups.is_empty() {
        return Ok(identity);
    }
    let chosen = groups.iter().map(|group| resolve_group(group, user, &identity, policy));
    let chosen = chosen.collect::<Result<Vec<u32>, _>>()?;
    let identity = Identity { groups: chosen, ..identity };
    policy.judge(&identity)?;
    Ok(identity)
}

/// The number of a group that the task may have.
fn resolve_group(
    group: &str,
    user: &str,
    identity: &Identity,
    policy: &UserPolicy,
) -> Result<u32, IdentityError> {
    let unknown = || IdentityError::UnknownGroup { group: group.to_owned() };
    let failed = |error: nix::Error| IdentityError::Lookup { user: user.to_owned(), source: error.into() };
    let number = group.parse::<u32>().ok().filter(|_| group.bytes().all(|byte| byte.is_ascii_digit()));
    let found = match number {
        Some(u32::MAX) => return Err(unknown()),
        Some(number) => Group::from_gid(Gid::from_raw(number)).map_err(failed)?,
        None => Group::from_name(group).map_err(failed)?,
    };
    let gid = match (&found, number) {
        (Some(found), _) => found.gid.as_raw(),
        (None, Some(number)) => number,
        (None, None) => return Err(unknown()),
    };
    let is_own = gid == identity.gid || identity.groups.contains(&gid);
    let is_named = |allowed: &String| {
        *allowed == gid.to_string() || found.as_ref().is_some_and(|found| found.name == *allowed)
    };
    if !is_own && !policy.groups.iter().any(is_named) {
        return Err(IdentityError::RefusedGroup { user: user.to_owned(), group: group.to_owned() });
    }
    Ok(gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_refused_by_name_and_number_unless_allowed() {
        let strict = UserPolicy::default();
        assert!(matches!(resolve("root", &[], &strict), Err(IdentityError::Refused { .. })));
        assert!(matches!(resolve("0", &[], &strict), Err(IdentityError::Refused { .. })));
        let lax = UserPolicy { is_root_allowed: true, ..UserPolicy::default() };
        assert_eq!(resolve("root", &[], &lax).unwrap().uid, 0);
    }

    #[test]
    fn who_does_not_exist_is_unknown_and_minus_one_is_nobody() {
        let policy = UserPolicy { is_root_allowed: true, ..UserPolicy::default() };
        assert!(matches!(resolve("no-such-user-here", &[], &policy), Err(IdentityError::Unknown { .. })));
        assert!(matches!(resolve("4294967295", &[], &policy), Err(IdentityError::Unknown { .. })));
        assert!(matches!(resolve("-1", &[], &policy), Err(IdentityError::Unknown { .. })));
        assert!(matches!(resolve("", &[], &policy), Err(IdentityError::Unknown { .. })));
    }

    #[test]
    fn a_number_that_the_host_does_not_know_gets_no_group_with_rights() {
        let identity = resolve("3999999999", &[], &UserPolicy::default()).unwrap();
        assert_eq!((identity.uid, identity.gid, identity.groups), (3_999_999_999, NO_GROUP, Vec::new()));
    }

    #[test]
    fn a_list_allows_by_name_or_number_and_none_else() {
        let policy = UserPolicy { allowed: Some(vec!["nobody".to_owned()]), ..UserPolicy::default() };
        assert!(resolve("nobody", &[], &policy).is_ok());
        assert!(resolve("65534", &[], &policy).is_ok());
        assert!(matches!(resolve("daemon", &[], &policy), Err(IdentityError::Refused { .. })));
    }

    #[test]
    fn a_group_is_the_users_own_or_one_that_the_operator_allows() {
        let groups = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let strict = UserPolicy::default();
        let own = resolve("nobody", &groups(&["nogroup"]), &strict).unwrap();
        assert_eq!(own.groups, [own.gid]);
        let refused = resolve("nobody", &groups(&["shadow"]), &strict);
        assert!(matches!(refused, Err(IdentityError::RefusedGroup { .. })), "{refused:?}");
        let unknown = resolve("nobody", &groups(&["no-such-group-here"]), &strict);
        assert!(matches!(unknown, Err(IdentityError::UnknownGroup { .. })), "{unknown:?}");

        let lax = UserPolicy { groups: groups(&["adm", "12345", "root"]), ..UserPolicy::default() };
        let both = resolve("nobody", &groups(&["adm", "12345"]), &lax).unwrap();
        assert_eq!(both.groups, [4, 12345]);
        // Root's group is root's, whatever the list says.
        let root = resolve("nobody", &groups(&["0"]), &lax);
        assert!(matches!(root, Err(IdentityError::Refused { .. })), "{root:?}");
    }
}
