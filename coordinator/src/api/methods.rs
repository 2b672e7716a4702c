//! Every method of every service: who may ask for it, with which verb, and whether it changes something.
//!
//! The one table; a method that isn't in it is for whoever may do everything. A test walks the services'
//! descriptors, so that none is forgotten.

use model::Verb;

/// Whom a method is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    /// Whoever brings a join token.
    Join,
    /// Whoever shows a certificate to be renewed.
    Renew,
    /// Members.
    Members,
    /// Agents.
    Agents,
    /// People and frameworks to whom the verb is granted.
    People(Verb, Reach),
}

/// On what the verb must be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The whole cluster.
    Cluster,
    /// What the message names: here on anything at all, and the method itself looks closer (`permit.rs`).
    Named,
}

/// What there is to know of a method before its message is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Method {
    pub asks: Asks,
    /// Whether the audit log has a line for each call.
    pub is_change: bool,
}

/// What the path of a request asks for. What isn't known is for whoever may do everything.
pub(super) fn method(path: &str) -> Method {
    match find(path) {
        Some(method) => method,
        None => Method { asks: Asks::People(Verb::Manage, Reach::Cluster), is_change: false },
    }
}

fn find(path: &str) -> Option<Method> {
    use Reach::{Cluster, Named};
    use Verb::{Exec, Kill, Manage, Run, Schedule, View};
    let read = |asks| Some(Method { asks, is_change: false });
    let change = |asks| Some(Method { asks, is_change: true });
    let Some((service, name)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
        // The pages: /, /health and /metrics.
        return read(Asks::People(View, Named));
    };
    match (service, name) {
        ("muster.join.v1.Joining", "Join") => change(Asks::Join),
        ("muster.join.v1.Joining", "Renew") => change(Asks::Renew),
        // What members say to each other is the log itself, and what agents say is what happened.
        ("muster.members.v1.Members", _) => read(Asks::Members),
        ("muster.agent.v1.AgentSession", _) => read(Asks::Agents),
        ("muster.operator.v1.Operator", name) => match name {
            "GetStatus" | "ListMembers" => read(Asks::People(View, Named)),
            "ListTasks" | "GetTask" | "WatchTasks" | "ReadOutput" => read(Asks::People(View, Named)),
            "GetUsage"
            | "GetAgentUsage"
            | "GetUsageHistory"
            | "ListAgents"
            | "GetAgent"
            | "ListFrameworks"
            | "ListOffers"
            | "ListRoles"
            | "ListJoinTokens"
            | "ListUsers"
            | "GetPolicy"
            | "TestPolicy"
            | "ListRevokedCertificates" => read(Asks::People(View, Cluster)),
            "Run" => change(Asks::People(Run, Named)),
            "KillTask" => change(Asks::People(Kill, Named)),
            "OpenChannel" => change(Asks::People(Exec, Named)),
            "TeardownFramework" => change(Asks::People(Manage, Named)),
            // Reads what no viewer may see: secrets of tasks.
            "Backup" => change(Asks::People(Manage, Cluster)),
            "SetRole"
            | "AddMember"
            | "RemoveMember"
            | "TransferLeadership"
            | "CreateJoinToken"
            | "RevokeJoinToken"
            | "SetUser"
            | "RemoveUser"
            | "CreateUserToken"
            | "RevokeUserToken"
            | "CertifyUser"
            | "SetDuty"
            | "RevokeCertificates"
            | "DeactivateAgent"
            | "ActivateAgent"
            | "MarkAgentGone"
            | "MarkAgentsUnreachable" => change(Asks::People(Manage, Cluster)),
            _ => None,
        },
        ("muster.scheduler.v1.Scheduler", name) => match name {
            "Subscribe" | "Accept" | "Kill" | "UpdateFramework" | "Teardown" => {
                change(Asks::People(Schedule, Named))
            }
            // A framework's part of a conversation that changes nothing but what it hears next.
            "Decline" | "SetDemand" | "Suppress" | "Revive" | "Reconcile" | "Acknowledge" => {
                read(Asks::People(Schedule, Named))
            }
            _ => None,
        },
        ("grpc.health.v1.Health" | "grpc.reflection.v1.ServerReflection", _) => {
            read(Asks::People(View, Named))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use expect_test::expect;
    use prost::Message as _;

    /// The path of every method of our services.
    pub(in crate::api) fn paths() -> Vec<String> {
        #[derive(Clone, PartialEq, prost::Message)]
        struct Files {
            #[prost(message, repeated, tag = "1")]
            file: Vec<File>,
        }
        // What descriptor.proto calls FileDescriptorProto and so on, as far as it is needed here.
        #[derive(Clone, PartialEq, prost::Message)]
        struct File {
            #[prost(string, tag = "2")]
            package: String,
            #[prost(message, repeated, tag = "6")]
            service: Vec<Service>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        struct Service {
            #[prost(string, tag = "1")]
            name: String,
            #[prost(message, repeated, tag = "2")]
            method: Vec<Named>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        struct Named {
            #[prost(string, tag = "1")]
            name: String,
        }
        let mut paths = Vec::new();
        for descriptors in [proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET] {
            for file in Files::decode(descriptors).unwrap().file {
                for service in file.service {
                    paths.extend(
                        (service.method.iter())
                            .map(|method| format!("/{}.{}/{}", file.package, service.name, method.name)),
                    );
                }
            }
        }
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    #[test]
    fn every_method_says_whom_it_is_for() {
        let mut table = String::new();
        for path in paths() {
            let method = find(&path).unwrap_or_else(|| panic!("{path} is not in the table"));
            let asks = match method.asks {
                Asks::People(verb, Reach::Cluster) => format!("{verb} on the whole cluster"),
                Asks::People(verb, Reach::Named) => format!("{verb} on what it names"),
                other => format!("{other:?}"),
            };
            let mark = if method.is_change { "changes" } else { "reads  " };
            table += &format!("{mark} {}: {asks}\n", path.trim_start_matches("/muster."));
        }
        expect![[r#"
            reads   /grpc.health.v1.Health/Check: view on what it names
            reads   /grpc.health.v1.Health/Watch: view on what it names
            reads   agent.v1.AgentSession/Attach: Agents
            reads   agent.v1.AgentSession/AttachByDigest: Agents
            reads   agent.v1.AgentSession/Channel: Agents
            changes join.v1.Joining/Join: Join
            changes join.v1.Joining/Renew: Renew
            reads   members.v1.Members/Append: Members
            reads   members.v1.Members/InstallSnapshot: Members
            reads   members.v1.Members/PreVote: Members
            reads   members.v1.Members/Support: Members
            reads   members.v1.Members/TransferLeader: Members
            reads   members.v1.Members/Vote: Members
            changes operator.v1.Operator/ActivateAgent: manage on the whole cluster
            changes operator.v1.Operator/AddMember: manage on the whole cluster
            changes operator.v1.Operator/Backup: manage on the whole cluster
            changes operator.v1.Operator/CertifyUser: manage on the whole cluster
            changes operator.v1.Operator/CreateJoinToken: manage on the whole cluster
            changes operator.v1.Operator/CreateUserToken: manage on the whole cluster
            changes operator.v1.Operator/DeactivateAgent: manage on the whole cluster
            reads   operator.v1.Operator/GetAgent: view on the whole cluster
            reads   operator.v1.Operator/GetAgentUsage: view on the whole cluster
            reads   operator.v1.Operator/GetPolicy: view on the whole cluster
            reads   operator.v1.Operator/GetStatus: view on what it names
            reads   operator.v1.Operator/GetTask: view on what it names
            reads   operator.v1.Operator/GetUsage: view on the whole cluster
            reads   operator.v1.Operator/GetUsageHistory: view on the whole cluster
            changes operator.v1.Operator/KillTask: kill on what it names
            reads   operator.v1.Operator/ListAgents: view on the whole cluster
            reads   operator.v1.Operator/ListFrameworks: view on the whole cluster
            reads   operator.v1.Operator/ListJoinTokens: view on the whole cluster
            reads   operator.v1.Operator/ListMembers: view on what it names
            reads   operator.v1.Operator/ListOffers: view on the whole cluster
            reads   operator.v1.Operator/ListRevokedCertificates: view on the whole cluster
            reads   operator.v1.Operator/ListRoles: view on the whole cluster
            reads   operator.v1.Operator/ListTasks: view on what it names
            reads   operator.v1.Operator/ListUsers: view on the whole cluster
            changes operator.v1.Operator/MarkAgentGone: manage on the whole cluster
            changes operator.v1.Operator/MarkAgentsUnreachable: manage on the whole cluster
            changes operator.v1.Operator/OpenChannel: exec on what it names
            reads   operator.v1.Operator/ReadOutput: view on what it names
            changes operator.v1.Operator/RemoveMember: manage on the whole cluster
            changes operator.v1.Operator/RemoveUser: manage on the whole cluster
            changes operator.v1.Operator/RevokeCertificates: manage on the whole cluster
            changes operator.v1.Operator/RevokeJoinToken: manage on the whole cluster
            changes operator.v1.Operator/RevokeUserToken: manage on the whole cluster
            changes operator.v1.Operator/Run: run on what it names
            changes operator.v1.Operator/SetDuty: manage on the whole cluster
            changes operator.v1.Operator/SetRole: manage on the whole cluster
            changes operator.v1.Operator/SetUser: manage on the whole cluster
            changes operator.v1.Operator/TeardownFramework: manage on what it names
            reads   operator.v1.Operator/TestPolicy: view on the whole cluster
            changes operator.v1.Operator/TransferLeadership: manage on the whole cluster
            reads   operator.v1.Operator/WatchTasks: view on what it names
            changes scheduler.v1.Scheduler/Accept: schedule on what it names
            reads   scheduler.v1.Scheduler/Acknowledge: schedule on what it names
            reads   scheduler.v1.Scheduler/Decline: schedule on what it names
            changes scheduler.v1.Scheduler/Kill: schedule on what it names
            reads   scheduler.v1.Scheduler/Reconcile: schedule on what it names
            reads   scheduler.v1.Scheduler/Revive: schedule on what it names
            reads   scheduler.v1.Scheduler/SetDemand: schedule on what it names
            changes scheduler.v1.Scheduler/Subscribe: schedule on what it names
            reads   scheduler.v1.Scheduler/Suppress: schedule on what it names
            changes scheduler.v1.Scheduler/Teardown: schedule on what it names
            changes scheduler.v1.Scheduler/UpdateFramework: schedule on what it names
        "#]]
        .assert_eq(&table);
    }

    #[test]
    fn what_is_not_known_is_for_whoever_may_do_everything() {
        let all = Asks::People(Verb::Manage, Reach::Cluster);
        for path in ["/muster.operator.v1.Operator/New", "/x/y", "/muster.operator.v2.Operator/Run", "//"] {
            assert_eq!(method(path).asks, all, "{path}");
        }
    }
}
