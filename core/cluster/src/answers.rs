//! A window of answers by request id, so that a repeated request gets its first answer.
//!
//! Bounded by [`limits::ANSWERS_KEPT_MAX`] and [`limits::ANSWER_ITEMS_KEPT_MAX`]; the oldest goes first.
//! Refusals are not kept: they changed nothing, so a repeat may be judged anew.

use std::sync::Arc;

use imbl::OrdMap;
use model::{AgentId, FrameworkId, Refusal, RefusalCode, RequestId, RoleName, TaskId, limits};

use crate::{outcome::Answer, parts::AnswerPart};

/// The latest answers of one window.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    by_request: OrdMap<RequestId, Arc<Kept>>,
    /// By the index of the entry that was answered.
    order: OrdMap<u64, RequestId>,
    /// Sum of the answers' items.
    items: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    index: u64,
    asked: Asked,
    answer: Answer,
}

/// What a request asked for, so that a request id used twice by mistake is noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    RegisterFramework { name: String },
    UpdateFramework,
    TearDownFramework(FrameworkId),
    Launch,
    Kill(TaskId),
    SubmitRun,
    SetRole(RoleName),
    DeactivateAgent(AgentId),
    ActivateAgent(AgentId),
    MarkAgentGone(AgentId),
}

impl Answers {
    /// The answer that a request got, whatever it asked.
    pub fn get(&self, request: &RequestId) -> Option<&Answer> {
        self.by_request.get(request).map(|kept| &kept.answer)
    }

    pub fn len(&self) -> usize {
        self.by_request.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_request.is_empty()
    }

    /// The first answer to this request, if it is kept.
    ///
    /// Refuses a request id that stood for something else: InvalidArgument.
    pub(crate) fn repeat(
        &self,
        request: Option<&RequestId>,
        asked: &Asked,
    ) -> Result<Option<Answer>, Refusal> {
        let Some(request) = request else { return Ok(None) };
        let Some(kept) = self.by_request.get(request) else { return Ok(None) };
        if kept.asked != *asked {
            return Err(Refusal::new(
                RefusalCode::InvalidArgument,
                format!(
                    "The request was not carried out: its request id `{request}` was used before for something else. \
                     Choose a new request id for each request."
                ),
            ));
        }
        Ok(Some(kept.answer.clone()))
    }

    /// Keeps an answer, and drops the oldest above the bounds.
    pub(crate) fn keep(&mut self, index: u64, request: Option<&RequestId>, asked: Asked, answer: &Answer) {
        let Some(request) = request else { return };
        self.drop_request(request);
        self.items += answer.items();
        self.order.insert(index, request.clone());
        self.by_request.insert(request.clone(), Arc::new(Kept { index, asked, answer: answer.clone() }));
        while self.by_request.len() > limits::ANSWERS_KEPT_MAX || self.items > limits::ANSWER_ITEMS_KEPT_MAX {
            let Some((_, oldest)) = self.order.get_min() else { break };
            let oldest = oldest.clone();
            self.drop_request(&oldest);
        }
    }

    fn drop_request(&mut self, request: &RequestId) {
        if let Some(kept) = self.by_request.remove(request) {
            self.order.remove(&kept.index);
            self.items -= kept.answer.items();
        }
    }

    /// Oldest first.
    pub(crate) fn parts(&self) -> Vec<AnswerPart> {
        let part = |(index, request): (&u64, &RequestId)| {
            let kept = self.by_request.get(request)?;
            Some(AnswerPart {
                index: *index,
                request: request.clone(),
                asked: kept.asked.clone(),
                answer: kept.answer.clone(),
            })
        };
        self.order.iter().filter_map(part).collect()
    }

    pub(crate) fn from_parts(parts: Vec<AnswerPart>) -> Self {
        let mut answers = Self::default();
        for part in parts {
            answers.keep(part.index, Some(&part.request), part.asked, &part.answer);
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: usize) -> RequestId {
        RequestId::new(&format!("r{number}")).unwrap()
    }

    #[test]
    fn the_oldest_answer_goes_first() {
        let mut answers = Answers::default();
        for number in 1..=limits::ANSWERS_KEPT_MAX + 2 {
            answers.keep(number as u64, Some(&request(number)), Asked::Launch, &Answer::Done);
        }
        assert_eq!(answers.len(), limits::ANSWERS_KEPT_MAX);
        assert_eq!(answers.get(&request(2)), None);
        assert_eq!(answers.get(&request(3)), Some(&Answer::Done));
        assert_eq!(Answers::from_parts(answers.parts()), answers);
    }

    #[test]
    fn large_answers_make_the_window_shorter() {
        let mut answers = Answers::default();
        let task = TaskId::new("t").unwrap();
        let large = Answer::Submitted(vec![task; limits::ANSWER_ITEMS_KEPT_MAX / 2]);
        for number in 1..=3 {
            answers.keep(number as u64, Some(&request(number)), Asked::SubmitRun, &large);
        }
        assert_eq!(answers.len(), 2);
    }

    #[test]
    fn a_request_id_stands_for_one_thing() {
        let mut answers = Answers::default();
        answers.keep(1, Some(&request(1)), Asked::Launch, &Answer::Done);
        assert_eq!(answers.repeat(Some(&request(1)), &Asked::Launch), Ok(Some(Answer::Done)));
        assert_eq!(answers.repeat(Some(&request(2)), &Asked::Launch), Ok(None));
        let refusal = answers.repeat(Some(&request(1)), &Asked::UpdateFramework).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::InvalidArgument);
    }
}
