//! Users, their tokens and duties, and certificates that count no more.

use imbl::OrdMap;
use model::{Duration, DutyName, Grant, Refusal, RefusalCode, UserName, built_in_duty, limits};

use super::{Step, invalid};
use crate::{
    access::{AccessChange, Revocation, User, UserToken},
    outcome::{Answer, Change},
};

/// Longer than any certificate lives, with the time in which an ended one may be renewed: after it, a name that was
/// revoked has none left.
const REVOCATION_KEPT: Duration = Duration::from_secs(120 * 24 * 3600);

impl Step<'_> {
    /// Refuses what the functions below refuse.
    pub(super) fn change_access(&mut self, change: &AccessChange) -> Result<Answer, Refusal> {
        match change {
            AccessChange::SetUser { user, duties } => self.set_user(user, duties)?,
            AccessChange::RemoveUser { user } => self.remove_user(user)?,
            AccessChange::AddToken { user, token, digest, life } => {
                self.add_token(user, token, digest, *life)?;
            }
            AccessChange::RevokeToken { token } => self.revoke_token(token)?,
            AccessChange::SetDuty { duty, grants } => self.set_duty(duty, grants)?,
            AccessChange::RevokeCertificates { name } => self.revoke_certificates(name)?,
        }
        self.changes.push(Change::Access);
        Ok(Answer::Done)
    }

    /// Refuses duties that nobody made or that are too many (InvalidArgument), and too many users (Busy).
    fn set_user(&mut self, user: &UserName, duties: &[DutyName]) -> Result<(), Refusal> {
        let access = &mut self.state.access;
        if duties.len() > limits::DUTIES_PER_USER_MAX {
            return Err(invalid(format!(
                "User `{user}` was not set: it would have {} duties, and {} are allowed. Make one duty of several.",
                duties.len(),
                limits::DUTIES_PER_USER_MAX
            )));
        }
        if let Some(duty) = duties.iter().find(|duty| access.duty(duty).is_none()) {
            return Err(invalid(format!(
                "User `{user}` was not set: there is no duty `{duty}`. See `muster policy show`, or make it with \
                 `muster policy set {duty} GRANT`."
            )));
        }
        let known = access.users.get(user);
        if known.is_none() && access.users.len() >= limits::USERS_MAX {
            return Err(busy(format!(
                "User `{user}` was not made: there are {} already. Remove some first.",
                limits::USERS_MAX
            )));
        }
        let created_at = known.map_or(self.at, |user| user.created_at);
        access.users.insert(user.clone(), User { duties: duties.to_vec(), created_at });
        Ok(())
    }

    /// Refuses a name that no user has: UserUnknown.
    fn remove_user(&mut self, user: &UserName) -> Result<(), Refusal> {
        if self.state.access.users.remove(user).is_none() {
            return Err(unknown(format!(
                "User `{user}` was not removed: there is none of this name. See `muster user list`."
            )));
        }
        drop_where(&mut self.state.access.tokens, |token| token.user == *user);
        self.revoke(format!("user/{user}"));
        Ok(())
    }

    /// Refuses a name that no user has (UserUnknown), an id that is taken (InvalidArgument), and more tokens than a
    /// user may have (Busy).
    fn add_token(
        &mut self,
        user: &UserName,
        token: &str,
        digest: &[u8; 32],
        life: Duration,
    ) -> Result<(), Refusal> {
        let counted = self.state.counted;
        let access = &mut self.state.access;
        if !access.users.contains_key(user) {
            return Err(unknown(format!(
                "The token was not made: there is no user `{user}`. Make it with `muster user add {user}`."
            )));
        }
        if let Some(known) = access.tokens.get(token) {
            return match known.digest == *digest && known.user == *user {
                true => Ok(()),
                false => {
                    Err(invalid(format!("The token was not made: there is a token `{token}`. Make another.")))
                }
            };
        }
        let open = access.tokens_of(user).filter(|(_, token)| token.expires_at > counted).count();
        if open >= limits::TOKENS_PER_USER_MAX {
            return Err(busy(format!(
                "The token was not made: user `{user}` has {open} already. Revoke one first: see `muster user list`."
            )));
        }
        drop_where(&mut access.tokens, |token| token.user == *user && token.expires_at <= counted);
        let record = UserToken {
            user: user.clone(),
            digest: *digest,
            created_at: self.at,
            expires_at: counted + life,
        };
        access.tokens.insert(token.to_owned(), record);
        Ok(())
    }

    /// Refuses an id that no token has: UserUnknown.
    fn revoke_token(&mut self, token: &str) -> Result<(), Refusal> {
        match self.state.access.tokens.remove(token) {
            Some(_) => Ok(()),
            None => Err(unknown(format!(
                "Token `{}` was not revoked: no user has it. See `muster user list`.",
                super::shortened(token, limits::ID_BYTES_MAX).escape_debug()
            ))),
        }
    }

    /// Refuses built-in duties, too many grants, and to end a duty that users have (InvalidArgument); too many duties
    /// (Busy).
    fn set_duty(&mut self, duty: &DutyName, grants: &[Grant]) -> Result<(), Refusal> {
        let access = &mut self.state.access;
        if built_in_duty(duty.as_str()).is_some() {
            return Err(invalid(format!(
                "Duty `{duty}` was not set: it is built in, and the same everywhere. Choose another name."
            )));
        }
        if grants.len() > limits::GRANTS_PER_DUTY_MAX {
            return Err(invalid(format!(
                "Duty `{duty}` was not set: it would have {} grants, and {} are allowed. Make several duties of it.",
                grants.len(),
                limits::GRANTS_PER_DUTY_MAX
            )));
        }
        if grants.is_empty() {
            let holder = access.users.iter().find(|(_, user)| user.duties.contains(duty));
            if let Some((holder, _)) = holder {
                return Err(invalid(format!(
                    "Duty `{duty}` was not ended: user `{holder}` has it. Give that one other duties first."
                )));
            }
            access.duties.remove(duty);
            return Ok(());
        }
        if !access.duties.contains_key(duty) && access.duties.len() >= limits::DUTIES_MAX {
            return Err(busy(format!(
                "Duty `{duty}` was not made: there are {} already. End some first.",
                limits::DUTIES_MAX
            )));
        }
        access.duties.insert(duty.clone(), grants.to_vec());
        Ok(())
    }

    /// Refuses too many names at once: Busy.
    fn revoke_certificates(&mut self, name: &str) -> Result<(), Refusal> {
        let access = &self.state.access;
        if !access.revoked.contains_key(name) && access.revoked.len() >= limits::REVOCATIONS_MAX {
            return Err(busy(format!(
                "The certificates of {name} were not revoked: those of {} others are. Wait until the oldest have \
                 ended.",
                limits::REVOCATIONS_MAX
            )));
        }
        self.revoke(name.to_owned());
        Ok(())
    }

    /// Forgets what has no certificate left to be refused.
    fn revoke(&mut self, name: String) {
        let counted = self.state.counted;
        let revoked = &mut self.state.access.revoked;
        drop_where(revoked, |old| old.counted + REVOCATION_KEPT <= counted);
        revoked.insert(name, Revocation { index: self.index, at: self.at, counted });
    }
}

fn drop_where<V: Clone>(records: &mut OrdMap<String, V>, is_over: impl Fn(&V) -> bool) {
    let over: Vec<String> =
        records.iter().filter(|(_, record)| is_over(record)).map(|(id, _)| id.clone()).collect();
    for id in &over {
        records.remove(id);
    }
}

fn busy(message: String) -> Refusal {
    Refusal::new(RefusalCode::Busy, message)
}

fn unknown(message: String) -> Refusal {
    Refusal::new(RefusalCode::UserUnknown, message)
}
