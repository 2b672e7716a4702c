//! The state as plain data, for snapshots: what is derived is left out and built again.

use std::sync::Arc;

use model::{
    AgentId, ClusterId, ClusterTime, Cursor, FrameworkEvent, FrameworkId, RequestId, RoleName, TaskSpec,
    Timestamp,
};

use crate::{
    access::Access,
    answers::{Answers, Asked},
    command::{AgentFacts, FrameworkInfo},
    join_token::JoinToken,
    outcome::Answer,
    state::{
        Agent, Availability, ClusterState, Framework, FrameworkState, Role, Task, VERSION_SUPPORTED, Waiting,
    },
};

/// All records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts {
    pub cluster: Option<ClusterId>,
    pub version: u32,
    /// Index of the last entry.
    pub applied: u64,
    pub counted: ClusterTime,
    pub frameworks: Vec<FrameworkPart>,
    pub ended: Vec<EndedPart>,
    pub agents: Vec<AgentPart>,
    pub gone_agents: Vec<GoneAgentPart>,
    pub tasks: Vec<Arc<Task>>,
    pub roles: Vec<RolePart>,
    pub queue: Vec<WaitingPart>,
    pub answers: Vec<AnswerPart>,
    /// By id.
    pub join_tokens: Vec<(String, JoinToken)>,
    pub access: Access,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameworkPart {
    pub framework: FrameworkId,
    pub info: FrameworkInfo,
    pub state: FrameworkState,
    pub is_built_in: bool,
    pub events: Vec<(Cursor, Arc<FrameworkEvent>)>,
    pub acknowledged: Cursor,
    pub compacted_to: Option<Cursor>,
    pub answers: Vec<AnswerPart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedPart {
    pub framework: FrameworkId,
    /// Of the entry that ended it.
    pub index: u64,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPart {
    pub agent: AgentId,
    pub facts: AgentFacts,
    pub epoch: u64,
    pub is_reachable: bool,
    pub availability: Availability,
    pub registered_at: Timestamp,
    pub changed_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoneAgentPart {
    pub agent: AgentId,
    /// Of the entry that said so.
    pub index: u64,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolePart {
    pub role: RoleName,
    pub weight_milli: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingPart {
    pub place: Cursor,
    pub spec: Arc<TaskSpec>,
    pub submitted_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerPart {
    /// Of the entry that was answered.
    pub index: u64,
    pub request: RequestId,
    pub asked: Asked,
    pub answer: Answer,
}

/// Why parts are no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartsError {
    #[error(
        "the snapshot has cluster version {version}, and this program knows none above {VERSION_SUPPORTED}"
    )]
    VersionTooNew { version: u32 },
}

impl ClusterState {
    pub fn parts(&self) -> Parts {
        Parts {
            cluster: self.cluster.clone(),
            version: self.version,
            applied: self.applied,
            counted: self.counted,
            frameworks: self.frameworks.iter().map(|(id, framework)| framework.part(id)).collect(),
            ended: (self.ended.iter())
                .map(|(id, (index, at))| EndedPart { framework: id.clone(), index: *index, at: *at })
                .collect(),
            agents: self.agents.iter().map(|(id, agent)| agent.part(id)).collect(),
            gone_agents: (self.gone_agents.iter())
                .map(|(id, (index, at))| GoneAgentPart { agent: id.clone(), index: *index, at: *at })
                .collect(),
            tasks: self.tasks.values().cloned().collect(),
            roles: (self.roles.iter())
                .map(|(role, Role { weight_milli })| RolePart {
                    role: role.clone(),
                    weight_milli: *weight_milli,
                })
                .collect(),
            queue: (self.queue.iter())
                .map(|(place, Waiting { spec, submitted_at })| WaitingPart {
                    place: *place,
                    spec: spec.clone(),
                    submitted_at: *submitted_at,
                })
                .collect(),
            answers: self.answers.parts(),
            join_tokens: (self.join_tokens.iter())
                .map(|(token, record)| (token.clone(), record.clone()))
                .collect(),
            access: self.access.clone(),
        }
    }

    /// Refuses what a newer program wrote.
    pub fn from_parts(parts: Parts) -> Result<Self, PartsError> {
        let Parts {
            cluster,
            version,
            applied,
            counted,
            frameworks,
            ended,
            agents,
            gone_agents,
            tasks,
            roles,
            queue,
            answers,
            join_tokens,
            access,
        } = parts;
        if version > VERSION_SUPPORTED {
            return Err(PartsError::VersionTooNew { version });
        }
        let mut state = Self {
            cluster,
            version,
            applied,
            counted,
            frameworks: frameworks.into_iter().map(Framework::from_part).collect(),
            ended: ended.into_iter().map(|part| (part.framework, (part.index, part.at))).collect(),
            agents: agents.into_iter().map(Agent::from_part).collect(),
            gone_agents: gone_agents.into_iter().map(|part| (part.agent, (part.index, part.at))).collect(),
            tasks: tasks.into_iter().map(|task| (task.spec.task_id.clone(), task)).collect(),
            roles: roles
                .into_iter()
                .map(|part| (part.role, Role { weight_milli: part.weight_milli }))
                .collect(),
            queue: (queue.into_iter())
                .map(|part| (part.place, Waiting { spec: part.spec, submitted_at: part.submitted_at }))
                .collect(),
            answers: Answers::from_parts(answers),
            join_tokens: join_tokens.into_iter().collect(),
            access,
            index: Default::default(),
        };
        state.rebuild_index();
        Ok(state)
    }
}

impl Framework {
    fn part(&self, framework: &FrameworkId) -> FrameworkPart {
        FrameworkPart {
            framework: framework.clone(),
            info: self.info.clone(),
            state: self.state,
            is_built_in: self.is_built_in,
            events: self.events.iter().map(|(cursor, event)| (*cursor, event.clone())).collect(),
            acknowledged: self.acknowledged,
            compacted_to: self.compacted_to,
            answers: self.answers.parts(),
        }
    }

    fn from_part(part: FrameworkPart) -> (FrameworkId, Arc<Self>) {
        let FrameworkPart {
            framework,
            info,
            state,
            is_built_in,
            events,
            acknowledged,
            compacted_to,
            answers,
        } = part;
        let record = Self {
            info,
            state,
            is_built_in,
            events: events.into_iter().collect(),
            acknowledged,
            compacted_to,
            answers: Answers::from_parts(answers),
            droppable: Default::default(),
        };
        (framework, Arc::new(record))
    }
}

impl Agent {
    fn part(&self, agent: &AgentId) -> AgentPart {
        AgentPart {
            agent: agent.clone(),
            facts: self.facts.as_ref().clone(),
            epoch: self.epoch,
            is_reachable: self.is_reachable,
            availability: self.availability,
            registered_at: self.registered_at,
            changed_at: self.changed_at,
        }
    }

    fn from_part(part: AgentPart) -> (AgentId, Arc<Self>) {
        let AgentPart { agent, facts, epoch, is_reachable, availability, registered_at, changed_at } = part;
        let record = Self {
            facts: Arc::new(facts),
            epoch,
            is_reachable,
            availability,
            registered_at,
            changed_at,
            allocated: Default::default(),
            tasks: Default::default(),
        };
        (agent, Arc::new(record))
    }
}
