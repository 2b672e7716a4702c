//! Join tokens: made, revoked, and used once.

use model::{AgentId, Duration, Refusal, RefusalCode, Timestamp, limits};

use super::Step;
use crate::{
    join_token::{JoinKind, JoinToken, JoinTokenEnd, JoinTokenUse},
    outcome::{Answer, Change},
};

/// How long a token that expired is still shown: whoever is refused with it may ask why on the next day.
const SHOWN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What a new token is to be.
pub(super) struct Wish<'a> {
    pub digest: &'a [u8; 32],
    pub kind: JoinKind,
    pub only_for: &'a Option<String>,
    pub expires_at: Timestamp,
    pub life: Option<Duration>,
}

/// Who comes with a token.
pub(super) struct Joiner<'a> {
    pub digest: &'a [u8; 32],
    pub kind: JoinKind,
    pub name: &'a str,
    pub key: &'a [u8; 32],
}

impl Step<'_> {
    /// Refuses an id that is taken (InvalidArgument), and more tokens than can be kept (Busy). A repeat changes
    /// nothing.
    pub(super) fn create_join_token(&mut self, token: &str, wish: Wish<'_>) -> Result<Answer, Refusal> {
        let Wish { digest, kind, only_for, expires_at, life } = wish;
        if let Some(known) = self.state.join_tokens.get(token) {
            if known.digest == *digest {
                return Ok(Answer::Done);
            }
            return Err(super::invalid(format!(
                "The join token was not made: there is one of the id `{token}` already. Make another."
            )));
        }
        let (at, counted) = (self.at, self.state.counted);
        let is_forgotten = |known: &JoinToken| match known.until {
            Some(until) => until + SHOWN_AFTER < counted,
            None => known.expires_at + SHOWN_AFTER < at,
        };
        let (old, kept): (Vec<_>, Vec<_>) =
            self.state.join_tokens.iter().partition(|(_, known)| is_forgotten(known));
        let (old, kept): (Vec<String>, usize) =
            (old.into_iter().map(|(id, _)| id.clone()).collect(), kept.len());
        if kept >= limits::JOIN_TOKENS_MAX {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!(
                    "The join token was not made: {kept} are known already. Wait until some have been expired for \
                     a day."
                ),
            ));
        }
        for id in &old {
            self.state.join_tokens.remove(id);
        }
        let record = JoinToken {
            digest: *digest,
            kind,
            only_for: only_for.clone(),
            created_at: self.at,
            expires_at,
            until: life.map(|life| counted + life),
            end: None,
        };
        self.state.join_tokens.insert(token.to_owned(), record);
        Ok(Answer::Done)
    }

    /// Refuses an id that nobody knows (JoinTokenRefused). Who came in with the token stays.
    pub(super) fn revoke_join_token(&mut self, token: &str) -> Result<Answer, Refusal> {
        let Some(record) = self.state.join_tokens.get_mut(token) else {
            return Err(refused(format!(
                "Join token `{token}` was not revoked: there is none of this id. See `muster token list`."
            )));
        };
        if record.end.is_none() {
            record.end = Some(JoinTokenEnd::Revoked { at: self.at });
        }
        Ok(Answer::Done)
    }

    /// Refuses a token that is unknown, of another kind or for somebody else, has expired, or was used or revoked:
    /// JoinTokenRefused. The key that used it may ask again.
    pub(super) fn use_join_token(&mut self, token: &str, joiner: Joiner<'_>) -> Result<Answer, Refusal> {
        let Joiner { digest, kind, name, key } = joiner;
        let (at, counted) = (self.at, self.state.counted);
        let what = kind.as_str();
        let no = |why: String| refused(format!("The {what} `{name}` did not join: {why}."));
        let anew = format!("make another with `muster token create {what}`");
        let is_known = match kind {
            JoinKind::Agent => AgentId::new(name).is_ok_and(|agent| self.state.agents.contains_key(&agent)),
            // Seats stand in Raft's own records; whoever proposes has looked there.
            JoinKind::Member => false,
        };
        let record = self
            .state
            .join_tokens
            .get_mut(token)
            // Nothing tells who guesses whether an id is there.
            .filter(|record| record.digest == *digest)
            .ok_or_else(|| no(format!("the token is not known here; {anew}")))?;
        if record.kind != kind {
            return Err(no(format!("the token is for {}; {anew}", record.kind.one())));
        }
        match &record.end {
            Some(JoinTokenEnd::Revoked { .. }) => return Err(no(format!("the token was revoked; {anew}"))),
            Some(JoinTokenEnd::Used(used)) if used.name == name && used.key == *key => {}
            Some(JoinTokenEnd::Used(used)) => {
                return Err(no(format!("{what} `{}` has used the token already; {anew}", used.name)));
            }
            None => {}
        }
        if record.has_expired(counted, at) {
            return Err(no(format!("the token has expired; {anew}, and use it before its end")));
        }
        match &record.only_for {
            Some(only) if only != name => return Err(no(format!("the token is for `{only}` alone; {anew}"))),
            None if is_known => {
                return Err(no(format!(
                    "an {what} of this id is there already; make a token for it with `muster token create {what} \
                     --only-for {name}`, or give this one a data directory of its own"
                )));
            }
            Some(_) | None => {}
        }
        if record.end.is_none() {
            let used = JoinTokenUse { name: name.to_owned(), key: *key, at };
            record.end = Some(JoinTokenEnd::Used(used));
            // Agents get a certificate that says how far the log is now. Members make their own, before they know.
            if kind == JoinKind::Member
                && self.state.access.revoked.remove(&format!("member/{name}")).is_some()
            {
                self.changes.push(Change::Access);
            }
        }
        Ok(Answer::Done)
    }
}

fn refused(message: String) -> Refusal {
    Refusal::new(RefusalCode::JoinTokenRefused, message)
}
