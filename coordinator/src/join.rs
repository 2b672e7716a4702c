//! How a new member comes into a cluster: it asks any member for the cluster's id, and for a seat.
//!
//! Asks again until it votes, so that it doesn't matter which of the two was started first, or stopped in
//! between. Start at [`Target`].

use std::{sync::Arc, time::Duration};

use identity::Connector;
use model::{ClusterId, IdError};
use proto::operator::v1::{AddMemberRequest, ListMembersRequest, operator_client::OperatorClient};
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::raft::RaftHandle;

/// How long the other member may take to say which cluster it is of.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a seat may take: the other side waits until this member has caught up.
const SEAT_PATIENCE: Duration = Duration::from_secs(40);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a cluster can't be joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("`{address}` is no address of a coordinator")]
    Address { address: String, source: tonic::transport::Error },
    #[error("member at {address} gave no answer: {why}")]
    Unanswered { address: String, why: String },
    #[error("member {id} of that cluster is there already, and this data directory is empty")]
    Taken { id: u64 },
    #[error("member at {address} is of a cluster whose id is not valid")]
    ClusterId { address: String, source: IdError },
}

/// A member of the cluster to be joined.
#[derive(Debug, Clone)]
pub struct Target {
    address: String,
    members: OperatorClient<Channel>,
    credential: Option<MetadataValue<Ascii>>,
}

impl Target {
    /// Connects when it is asked first. Shows a credential where plain text is spoken, and else a certificate.
    pub fn new(
        address: &str,
        credential: Option<MetadataValue<Ascii>>,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Self, JoinError> {
        let failed = |source| JoinError::Address { address: address.to_owned(), source };
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .map_err(failed)?
            .connect_with_connector_lazy(Connector::new(tls, ANSWER_PATIENCE));
        Ok(Self { address: address.to_owned(), members: OperatorClient::new(channel), credential })
    }

    fn request<T>(&self, message: T, patience: Duration) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(credential) = &self.credential {
            request.metadata_mut().insert("authorization", credential.clone());
        }
        request.set_timeout(patience);
        request
    }

    /// Which cluster the member is of, for a member `id` with an empty data directory.
    ///
    /// Refuses an id that has a seat: whoever forgot its votes could vote twice in one election.
    pub async fn cluster(&self, id: u64) -> Result<ClusterId, JoinError> {
        let mut members = self.members.clone();
        let asked = members.list_members(self.request(ListMembersRequest {}, ANSWER_PATIENCE)).await;
        let unanswered = |status: Status| JoinError::Unanswered {
            address: self.address.clone(),
            why: status.message().to_owned(),
        };
        let answer = asked.map_err(unanswered)?.into_inner();
        if answer.members.iter().any(|member| member.member_id == id && member.is_voter) {
            return Err(JoinError::Taken { id });
        }
        ClusterId::new(&answer.cluster_id)
            .map_err(|source| JoinError::ClusterId { address: self.address.clone(), source })
    }

    /// Asks for a seat until this member has one that votes, or is refused for good. What it knows itself may be
    /// old: it may have been removed while it was away.
    pub async fn until_seated(self, raft: RaftHandle, address: String, stop: CancellationToken) {
        let id = raft.member_id();
        loop {
            let wish = AddMemberRequest { member_id: id, address: address.clone() };
            let mut members = self.members.clone();
            let asked = members.add_member(self.request(wish, SEAT_PATIENCE));
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = asked => answer,
            };
            match answer {
                Ok(_) => {
                    tracing::info!(member = id, "this member has a seat and votes");
                    return;
                }
                Err(status) if matches!(status.code(), Code::AlreadyExists | Code::InvalidArgument) => {
                    tracing::error!(member = id, why = status.message(), "this member gets no seat");
                    return;
                }
                Err(status) => tracing::warn!(member = id, why = status.message(), "no seat yet"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}
