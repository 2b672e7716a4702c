//! Roles and their weights.

use model::{Refusal, RefusalCode, RequestId, RoleName, limits};

use super::{Step, invalid};
use crate::{
    answers::Asked,
    outcome::{Answer, Change},
    state::Role,
};

impl Step<'_> {
    /// Refuses a weight out of bounds (InvalidArgument) and more than [`limits::ROLES_MAX`] roles (Busy).
    pub(super) fn set_role(
        &mut self,
        role: &RoleName,
        weight_milli: u64,
        request: Option<&RequestId>,
    ) -> Result<Answer, Refusal> {
        let asked = Asked::SetRole(role.clone());
        if let Some(first) = self.state.answers.repeat(request, &asked)? {
            return Ok(first);
        }
        if weight_milli == 0 || weight_milli > limits::WEIGHT_MILLI_MAX {
            return Err(invalid(format!(
                "The weight of role `{role}` was not set to {weight_milli} thousandths: \
                 choose one from 1 to {} thousandths.",
                limits::WEIGHT_MILLI_MAX
            )));
        }
        if !self.state.roles.contains_key(role) && self.state.roles.len() >= limits::ROLES_MAX {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!(
                    "The weight of role `{role}` was not set: {} roles have one, the most that are allowed. \
                     Use a role that has one.",
                    limits::ROLES_MAX
                ),
            ));
        }
        self.state.roles.insert(role.clone(), Role { weight_milli });
        self.changes.push(Change::Role(role.clone()));
        self.state.answers.keep(self.index, request, asked, &Answer::Done);
        Ok(Answer::Done)
    }
}
