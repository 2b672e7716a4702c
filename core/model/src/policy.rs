//! Who may do what: grants, and [`decide`], the one function that judges by them.
//!
//! A grant is a verb on a scope; a duty is a named set of grants, and users have duties. What nobody granted is
//! denied. Never knows who asks, nor how that was proven.

use std::{fmt, str::FromStr};

use crate::{FrameworkId, RoleName};

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What can be granted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Verb {
            $($(#[$doc])* $name,)*
        }

        impl Verb {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

verbs! {
    /// To look at everything but secrets, and to read output.
    View = "view",
    /// To run tasks without a framework.
    Run = "run",
    /// To end tasks.
    Kill = "kill",
    /// To act inside of tasks: commands, input, files, signals.
    Exec = "exec",
    /// To be a framework.
    Schedule = "schedule",
    /// To change the cluster itself: members, agents, roles, users, tokens, certificates, backups.
    Manage = "manage",
}

impl fmt::Display for Verb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// On what a verb is granted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    Everything,
    /// The tasks and frameworks of a role.
    Role(RoleName),
    /// A framework and its tasks.
    Framework(FrameworkId),
}

/// A verb on a scope; written `kill`, `kill:role=web` or `kill:framework=run`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    pub verb: Verb,
    pub scope: Scope,
}

impl fmt::Display for Grant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Scope::Everything => write!(formatter, "{}", self.verb),
            Scope::Role(role) => write!(formatter, "{}:role={role}", self.verb),
            Scope::Framework(framework) => write!(formatter, "{}:framework={framework}", self.verb),
        }
    }
}

/// Why a text is no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no grant: write VERB, VERB:role=ROLE or VERB:framework=ID, with view, run, kill, exec, schedule or \
     manage for the verb"
)]
pub struct GrantError(String);

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let refuse = || GrantError(text.chars().take(128).flat_map(char::escape_debug).collect());
        let (verb, scope) = text.split_once(':').map_or((text, None), |(verb, scope)| (verb, Some(scope)));
        let verb = Verb::ALL.iter().copied().find(|known| known.as_str() == verb).ok_or_else(refuse)?;
        let scope = match scope.map(|scope| scope.split_once('=').unwrap_or((scope, ""))) {
            None => Scope::Everything,
            Some(("role", name)) => Scope::Role(name.parse().map_err(|_| refuse())?),
            Some(("framework", id)) => Scope::Framework(id.parse().map_err(|_| refuse())?),
            Some(_) => return Err(refuse()),
        };
        Ok(Self { verb, scope })
    }
}

/// To what somebody wants to do something. Without role and framework it is the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Target<'a> {
    pub role: Option<&'a RoleName>,
    pub framework: Option<&'a FrameworkId>,
}

impl Target<'_> {
    /// The whole cluster.
    pub const CLUSTER: Self = Self { role: None, framework: None };
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.role, self.framework) {
            (None, None) => formatter.write_str("the whole cluster"),
            (Some(role), None) => write!(formatter, "role `{role}`"),
            (None, Some(framework)) => write!(formatter, "framework `{framework}`"),
            (Some(role), Some(framework)) => write!(formatter, "framework `{framework}` of role `{role}`"),
        }
    }
}

impl Scope {
    fn covers(&self, target: Target<'_>) -> bool {
        match self {
            Self::Everything => true,
            Self::Role(role) => target.role == Some(role),
            Self::Framework(framework) => target.framework == Some(framework),
        }
    }
}

/// A no of the policy: what was asked for, and on what it is granted instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Denied {
    pub verb: Verb,
    /// As text, because it outlives what it names.
    pub target: String,
    /// The same verb on other scopes.
    pub granted: Vec<Grant>,
}

impl fmt::Display for Denied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}` on {} is not granted", self.verb, self.target)?;
        if !self.granted.is_empty() {
            let granted: Vec<_> = self.granted.iter().map(Grant::to_string).collect();
            write!(formatter, ", only {}", granted.join(", "))?;
        }
        Ok(())
    }
}

/// Whether these grants allow a verb on a target, and else why not. What nobody granted is denied.
pub fn decide<'a>(
    grants: impl IntoIterator<Item = &'a Grant>,
    verb: Verb,
    target: Target<'_>,
) -> Result<(), Denied> {
    let mut granted = Vec::new();
    for grant in grants {
        if grant.verb != verb {
            continue;
        }
        if grant.scope.covers(target) {
            return Ok(());
        }
        granted.push(grant.clone());
    }
    granted.sort_unstable();
    granted.dedup();
    Err(Denied { verb, target: target.to_string(), granted })
}

/// Whether these grants allow a verb on anything at all: asked before it is known on what.
pub fn decide_anywhere<'a>(grants: impl IntoIterator<Item = &'a Grant>, verb: Verb) -> Result<(), Denied> {
    match grants.into_iter().any(|grant| grant.verb == verb) {
        true => Ok(()),
        false => Err(Denied { verb, target: "anything".to_owned(), granted: Vec::new() }),
    }
}

/// Duties that every cluster has; nobody can change them.
pub const BUILT_IN_DUTIES: [&str; 4] = ["admin", "framework", "operator", "viewer"];

/// The grants of a built-in duty.
pub fn built_in_duty(name: &str) -> Option<Vec<Grant>> {
    let verbs: &[Verb] = match name {
        "admin" => Verb::ALL,
        "operator" => &[Verb::View, Verb::Run, Verb::Kill, Verb::Exec],
        "viewer" => &[Verb::View],
        "framework" => &[Verb::View, Verb::Schedule],
        _ => return None,
    };
    Some(verbs.iter().map(|verb| Grant { verb: *verb, scope: Scope::Everything }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proptest::{prelude::*, sample::select};

    fn role() -> impl Strategy<Value = RoleName> {
        select(&["web", "batch"][..]).prop_map(|name| RoleName::new(name).unwrap())
    }

    fn framework() -> impl Strategy<Value = FrameworkId> {
        select(&["f1", "f2"][..]).prop_map(|id| FrameworkId::new(id).unwrap())
    }

    fn grant() -> impl Strategy<Value = Grant> {
        let scope = prop_oneof![
            Just(Scope::Everything),
            role().prop_map(Scope::Role),
            framework().prop_map(Scope::Framework)
        ];
        (select(Verb::ALL), scope).prop_map(|(verb, scope)| Grant { verb, scope })
    }

    fn target() -> impl Strategy<Value = (Option<RoleName>, Option<FrameworkId>)> {
        (prop::option::of(role()), prop::option::of(framework()))
    }

    proptest! {
        #[test]
        fn what_nobody_granted_is_denied(
            grants in prop::collection::vec(grant(), 0..6),
            verb in select(Verb::ALL),
            (role, framework) in target(),
        ) {
            let target = Target { role: role.as_ref(), framework: framework.as_ref() };
            let others: Vec<_> = grants.iter().filter(|grant| grant.verb != verb).cloned().collect();
            prop_assert!(decide(&others, verb, target).is_err());
            // The whole cluster is granted by nothing narrower.
            let narrow: Vec<_> = grants.iter().filter(|grant| grant.scope != Scope::Everything).cloned().collect();
            prop_assert!(decide(&narrow, verb, Target::CLUSTER).is_err());
        }

        #[test]
        fn one_more_grant_takes_nothing_away(
            grants in prop::collection::vec(grant(), 0..6),
            more in grant(),
            verb in select(Verb::ALL),
            (role, framework) in target(),
        ) {
            let target = Target { role: role.as_ref(), framework: framework.as_ref() };
            let before = decide(&grants, verb, target).is_ok();
            let after = decide(grants.iter().chain([&more]), verb, target).is_ok();
            prop_assert!(after || !before);
            prop_assert!(decide_anywhere(&grants, verb).is_ok() || !before);
        }

        #[test]
        fn the_order_of_grants_does_not_matter(
            grants in prop::collection::vec(grant(), 0..6),
            verb in select(Verb::ALL),
            (role, framework) in target(),
        ) {
            let target = Target { role: role.as_ref(), framework: framework.as_ref() };
            let backwards = decide(grants.iter().rev(), verb, target);
            prop_assert_eq!(decide(&grants, verb, target), backwards);
        }

        #[test]
        fn a_grant_that_was_written_can_be_read(grant in grant()) {
            prop_assert_eq!(grant.to_string().parse(), Ok(grant));
        }
    }

    #[test]
    fn what_is_no_grant_is_refused() {
        for bad in
            ["", "fly", "kill:", "kill:role", "kill:role=", "kill:role=Web", "kill:task=t1", "Kill", "kill "]
        {
            assert!(bad.parse::<Grant>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_no_says_what_is_granted_instead() {
        let grants: Vec<Grant> = ["kill:role=web", "view"].map(|text| text.parse().unwrap()).to_vec();
        let role = RoleName::new("batch").unwrap();
        let no = decide(&grants, Verb::Kill, Target { role: Some(&role), framework: None }).unwrap_err();
        expect!["`kill` on role `batch` is not granted, only kill:role=web"].assert_eq(&no.to_string());
        let no = decide(&grants, Verb::Manage, Target::CLUSTER).unwrap_err();
        expect!["`manage` on the whole cluster is not granted"].assert_eq(&no.to_string());
    }

    #[test]
    fn what_built_in_duties_grant() {
        let mut table = String::new();
        for name in BUILT_IN_DUTIES {
            let grants: Vec<_> = built_in_duty(name).unwrap().iter().map(Grant::to_string).collect();
            table += &format!("{name}: {}\n", grants.join(", "));
        }
        expect![[r#"
            admin: view, run, kill, exec, schedule, manage
            framework: view, schedule
            operator: view, run, kill, exec
            viewer: view
        "#]]
        .assert_eq(&table);
        assert_eq!(built_in_duty("nobody"), None);
    }
}
