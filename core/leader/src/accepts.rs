//! Offers are accepted and declined, and what the log makes of it.

use cluster::{Answer, ClusterState, Command};
use model::{Duration, FrameworkId, OfferId, Refusal, RefusalCode, RequestId, TaskSpec, Timestamp, limits};

use crate::{
    filters::Filter,
    machine::Leader,
    messages::{Caller, Reply},
    offers::Ending,
    proposals::{Asker, Launching, ProposeError, Purpose},
};

/// What an Accept uses.
pub(crate) struct Using {
    pub(crate) offers: Vec<OfferId>,
    pub(crate) tasks: Vec<TaskSpec>,
    pub(crate) refuse: Duration,
}

impl Leader {
    pub(crate) fn decline(&mut self, id: &OfferId, refuse: Duration, now: Timestamp) {
        let Some(offer) = self.offers.end(id, Ending::Declined) else { return };
        self.counts.offers_declined += 1;
        self.filter(&offer.framework, &offer.agent, offer.resources, refuse, now);
        self.cycle.touch();
    }

    pub(crate) fn filter(
        &mut self,
        framework: &FrameworkId,
        agent: &model::AgentId,
        resources: model::Resources,
        refuse: Duration,
        now: Timestamp,
    ) {
        let refuse = refuse.min(Duration::from_millis(limits::TIMEOUT_MS_MAX));
        if !refuse.is_zero() && !resources.is_empty() {
            self.filters.set(framework, agent, Filter { until: now + refuse, resources });
        }
    }

    pub(crate) fn accept(
        &mut self,
        asker: Asker,
        caller: Caller,
        using: Using,
        state: &ClusterState,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let Using { offers, tasks, refuse } = using;
        let Caller { framework, subscription: _, request } = caller;
        if let Some(request) = &request
            && self.answer_repeat(asker, &framework, request, state)?
        {
            return Ok(());
        }
        if tasks.len() > limits::TASKS_PER_ACCEPT_MAX {
            return Err(Refusal::new(
                RefusalCode::InvalidArgument,
                format!(
                    "can't accept: {} tasks are named; at most {} are allowed",
                    tasks.len(),
                    limits::TASKS_PER_ACCEPT_MAX
                ),
            ));
        }
        let together = self.offers.judge(&framework, &offers, now)?;
        if tasks.is_empty() {
            for id in &offers {
                self.decline(id, refuse, now);
            }
            self.answer(asker, Ok(Reply::Launched(Vec::new())));
            return Ok(());
        }
        self.offers.use_up(&offers);
        let appetite = self.interests.appetites.entry(framework.clone()).or_default();
        let taken = tasks
            .iter()
            .map(|task| (task.task_id.clone(), task.resources.clone(), appetite.launched(&task.resources)))
            .collect();
        let purpose = Purpose::Launch(Launching {
            askers: vec![asker],
            framework: framework.clone(),
            agent: together.agent.clone(),
            request: request.clone(),
            offers,
            offered: together.resources.clone(),
            refuse,
            taken,
        });
        let command = Command::Launch {
            framework,
            request,
            agent: together.agent,
            epoch: together.epoch,
            role: together.role,
            offered: together.resources,
            tasks: tasks.into_iter().map(Into::into).collect(),
        };
        self.propose(purpose, command, now);
        Ok(())
    }

    /// Answers an accept that was made before. Its offers are gone, so only its request id tells.
    fn answer_repeat(
        &mut self,
        asker: Asker,
        framework: &FrameworkId,
        request: &RequestId,
        state: &ClusterState,
    ) -> Result<bool, Refusal> {
        if self.proposals.join_launch(framework, request, asker) {
            return Ok(true);
        }
        match state.framework(framework).and_then(|record| record.answer_to(request)) {
            None if self.proposals.is_launch_unknown(framework, request) => {
                Err(ProposeError::Unknown.refusal())
            }
            None => Ok(false),
            Some(Answer::Launched(results)) => {
                self.answer(asker, Ok(Reply::Launched(results.clone())));
                Ok(true)
            }
            Some(
                Answer::Done
                | Answer::FrameworkRegistered { .. }
                | Answer::AgentRegistered { .. }
                | Answer::Recorded(_)
                | Answer::Submitted(_)
                | Answer::Pruned { .. },
            ) => Err(Refusal::new(
                RefusalCode::InvalidArgument,
                format!(
                    "can't accept: request id `{request}` was used before for something else; choose a new one"
                ),
            )),
        }
    }

    pub(crate) fn launched(
        &mut self,
        launching: Launching,
        answer: Result<Answer, Refusal>,
        _state: &ClusterState,
        now: Timestamp,
    ) {
        let Launching { askers, framework, agent, request, offers, offered, refuse, taken } = launching;
        if let (Err(refusal), Some(request)) = (&answer, request)
            && refusal.code == RefusalCode::OutcomeUnknown
        {
            self.proposals.launch_is_unknown(framework.clone(), request);
        }
        for id in &offers {
            self.offers.end(id, Ending::Accepted);
            self.counts.offers_accepted += 1;
        }
        self.cycle.touch();
        let is_launched = |place: usize| match &answer {
            Ok(Answer::Launched(results)) => results.get(place).is_some_and(|(_, refusal)| refusal.is_none()),
            Ok(_) | Err(_) => false,
        };
        let mut left = offered;
        for (place, (_, resources, demand)) in taken.into_iter().enumerate() {
            if is_launched(place) {
                self.counts.tasks_launched += 1;
                left = left.minus_at_most(&resources);
                continue;
            }
            self.counts.launches_refused += 1;
            if let Some(demand) = demand
                && let Some(appetite) = self.interests.appetites.get_mut(&framework)
            {
                appetite.not_launched(demand);
            }
        }
        if answer.is_ok() && self.subscribers.of_framework(&framework).is_some() {
            self.filter(&framework, &agent, left, refuse, now);
        }
        let reply = match answer {
            Ok(Answer::Launched(results)) => Ok(Reply::Launched(results)),
            Ok(other) => Err(Refusal::new(
                RefusalCode::Internal,
                format!("the log gave a launch an answer of the wrong kind: {other:?}"),
            )),
            Err(refusal) => Err(refusal),
        };
        for asker in askers {
            self.answer(asker, reply.clone());
        }
    }

    /// Ends offers whose lease is over, and lets others have a turn.
    pub(crate) fn expire_offers(&mut self, now: Timestamp) {
        for id in self.offers.expired(now) {
            let Some(offer) = self.offers.get(&id).cloned() else { continue };
            self.counts.offers_expired += 1;
            let pause = crate::config::EXPIRED_OFFER_PAUSE;
            self.filter(&offer.framework, &offer.agent, offer.resources, pause, now);
            self.rescind(vec![id], Ending::Expired, "its lease is over");
        }
        if self.filters.expire(now) {
            self.cycle.touch();
        }
    }
}
