//! How members reach each other: so far, not at all.
//!
//! A single member needs no network, but runs on the same code path as many: openraft asks this
//! factory for every other member. Each answer is *unreachable*, so a membership with others waits
//! for them instead of going on alone. The gRPC client takes this place.

use std::io;

use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    impls::BasicNode,
    network::RPCOption,
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};

use super::{
    snapshot::SnapshotFile,
    types::{MemberId, Types, Vote},
};

type Snapshot = openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>;

/// Makes a client for each other member.
pub struct Unconnected;

/// One other member, which can't be reached.
pub struct Absent {
    member: MemberId,
}

impl RaftNetworkFactory<Types> for Unconnected {
    type Network = Absent;

    async fn new_client(&mut self, target: MemberId, _node: &BasicNode) -> Absent {
        Absent { member: target }
    }
}

impl Absent {
    fn unreachable(&self) -> Unreachable<Types> {
        let cause = io::Error::new(
            io::ErrorKind::NotConnected,
            format!("this release can't reach other members, and {} is one", self.member),
        );
        Unreachable::new(&cause)
    }
}

impl RaftNetworkV2<Types> for Absent {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    // openraft's default grants, which would turn pre-vote off without a word.
    async fn pre_vote(
        &mut self,
        _request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }
}
