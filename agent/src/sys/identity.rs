//! Whose rights a task gets.

/// A user with its groups, as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// For the environment (HOME), where the host knows it.
    pub home: Option<std::path::PathBuf>,
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
    Lookup { user: String, source: std::io::Error },
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
