//! etcd, by its gRPC API.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// `etcdserverpb.PutRequest`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.ResponseHeader`.
#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// `etcdserverpb.StatusResponse`, and of others what they have in common with it.
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

pub(super) fn is_here() -> bool {
    let version = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// As it is shipped, but for where it listens and a quota that the load does not reach.
pub(super) fn commands(directory: &Path, clients: &[u16], rest: &[u16]) -> Vec<Vec<String>> {
    let url = |port: &u16| format!("http://127.0.0.1:{port}");
    let all: Vec<String> =
        rest.iter().take(clients.len()).enumerate().map(|(n, port)| format!("n{n}={}", url(port))).collect();
    let member = |(number, (client, peer)): (usize, (&u16, &u16))| {
        let data = directory.join(format!("data-{number}")).display().to_string();
        let name = format!("n{number}");
        let (client, peer, all) = (url(client), url(peer), all.join(","));
        let flags = [
            ["--name", &name],
            ["--data-dir", &data],
            ["--listen-client-urls", &client],
            ["--advertise-client-urls", &client],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", &all],
            ["--quota-backend-bytes", "4000000000"],
            ["--auto-compaction-retention", "1m"],
            ["--log-level", "error"],
        ];
        let flags = flags.as_flattened().iter().map(|text| (*text).to_owned());
        std::iter::once("etcd".to_owned()).chain(flags).collect()
    };
    clients.iter().zip(rest).enumerate().map(member).collect()
}

async fn channel(port: u16) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.tcp_nodelay(true).connect().await?)
}

pub(super) async fn leads(port: u16) -> Result<bool> {
    let mut client = Grpc::new(channel(port).await?);
    client.ready().await?;
    let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Status");
    let codec = ProstCodec::<Empty, Status>::default();
    let status = client.unary(Request::new(Empty {}), path, codec).await?.into_inner();
    Ok(status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader))
}

pub(crate) struct Writer {
    client: Grpc<Channel>,
    put: Put,
}

impl Writer {
    pub(super) async fn connect(port: u16) -> Result<Self> {
        let put = Put { key: b"bench".to_vec(), value: vec![b'v'; 256] };
        Ok(Self { client: Grpc::new(channel(port).await?), put })
    }

    pub(super) async fn write(&mut self) -> Result<()> {
        self.client.ready().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec = ProstCodec::<Put, Empty>::default();
        self.client.unary(Request::new(self.put.clone()), path, codec).await?;
        Ok(())
    }
}
