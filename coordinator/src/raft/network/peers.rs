//! Questions of this member to others that are not openraft's.

use std::{sync::Arc, time::Duration};

use proto::members::v1 as wire;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{
    super::{config::RaftConfig, types::MemberId},
    Client, Network, connect, dial,
};

/// An answer takes a moment, or the member is away.
const PATIENCE: Duration = Duration::from_secs(2);

/// The way to the other members; cheap to clone.
#[derive(Clone)]
pub struct Peers {
    network: Network,
}

impl Peers {
    pub fn new(config: &RaftConfig, cluster_id: &str) -> Self {
        Self {
            network: Network {
                cluster_id: Arc::from(cluster_id),
                member_id: config.member_id,
                credential: config.credential.clone(),
                dial: dial(config.tls.clone()),
            },
        }
    }

    /// The newest version of what is in the log that a member reads; `None`: its program is too old to say.
    ///
    /// Fails with a sentence when it does not answer.
    pub async fn version_supported(&self, id: MemberId, address: &str) -> Result<Option<u32>, String> {
        let members = connect(address, &self.network.dial)
            .map_err(|error| format!("can't use address `{address}`: {error}"));
        let client = Client { network: self.network.clone(), target: id, members };
        let why = |error: openraft::errors::Unreachable<_>| error.to_string();
        let request = client.request(wire::SupportRequest {}).map_err(why)?;
        let mut members = client.members().map_err(why)?;
        match timeout(PATIENCE, members.support(request)).await {
            Ok(Ok(answer)) => Ok(Some(answer.into_inner().cluster_version)),
            Ok(Err(status)) if is_unknown(&status) => Ok(None),
            Ok(Err(status)) => Err(client.failed(&status).to_string()),
            Err(_elapsed) => Err(client.late(PATIENCE).to_string()),
        }
    }
}

/// Whether the other side has never heard of the question.
fn is_unknown(status: &Status) -> bool {
    status.code() == Code::Unimplemented
}
