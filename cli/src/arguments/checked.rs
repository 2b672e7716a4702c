//! A task's health check, as flags of `muster run`, and as the message that they make.

use std::time::Duration;

use clap::Args;
use muster_client::types::{CommandProbe, GrpcProbe, HealthCheck, HttpProbe, TcpProbe, health_check::Probe};

use crate::units;

/// Whether the task is well, asked by its agent again and again.
#[derive(Debug, Args)]
#[command(next_help_heading = "Health")]
pub struct Health {
    /// http[s]:[PORT][/PATH], tcp[:PORT], grpc:[PORT][/SERVICE] or cmd:SHELL-COMMAND, run inside the task; without a
    /// port, the first that the task has declared
    #[arg(long, value_parser = probe, value_name = "PROBE")]
    pub health: Option<Probe>,
    /// From one question to the next [default: 10s]
    #[arg(long, requires = "health", value_parser = units::duration, value_name = "TIME")]
    pub health_interval: Option<Duration>,
    /// How long an answer may take [default: 5s, or the interval]
    #[arg(long, requires = "health", value_parser = units::duration, value_name = "TIME")]
    pub health_timeout: Option<Duration>,
    /// For so long after its start a task that was not well yet may fail
    #[arg(long, requires = "health", value_parser = units::duration, value_name = "TIME")]
    pub health_start: Option<Duration>,
    /// So many failures in a row make it unhealthy [default: 3]
    #[arg(long, requires = "health", value_name = "NUMBER")]
    pub health_failures: Option<u32>,
    /// So many successes in a row make it healthy [default: 1]
    #[arg(long, requires = "health", value_name = "NUMBER")]
    pub health_successes: Option<u32>,
    /// Kills the task when it is unhealthy; the agent kills only so many in a minute
    #[arg(long, requires = "health")]
    pub health_kill: bool,
}

impl Health {
    pub fn message(self) -> Option<HealthCheck> {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Some(HealthCheck {
            probe: Some(self.health?),
            start_period_ms: self.health_start.map_or(0, ms),
            interval_ms: self.health_interval.map(ms),
            timeout_ms: self.health_timeout.map(ms),
            failures_max: self.health_failures,
            successes_min: self.health_successes,
            kill_when_unhealthy: self.health_kill,
        })
    }
}

fn probe(text: &str) -> Result<Probe, String> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    if kind == "cmd" && !rest.is_empty() {
        let command = ["sh", "-c", rest].map(str::to_owned).to_vec();
        return Ok(Probe::Command(CommandProbe { command }));
    }
    let (port, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let port = match port {
        "" => None,
        digits => Some(digits.parse::<u16>().map_err(|_| format!("`{digits}` is no port"))?.into()),
    };
    match kind {
        "http" | "https" if !path.starts_with("//") => {
            Ok(Probe::Http(HttpProbe { port, path: path.to_owned(), tls: kind == "https" }))
        }
        "tcp" if path.is_empty() => Ok(Probe::Tcp(TcpProbe { port })),
        "grpc" => {
            let service = path.strip_prefix('/').unwrap_or(path).to_owned();
            Ok(Probe::Grpc(GrpcProbe { port, service }))
        }
        _ => Err(format!(
            "`{text}` is no health check; write for example http:8080/health, tcp:5432, grpc:9000 or cmd:./is-well"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_one_word() {
        let http = |port, path: &str, tls| Ok(Probe::Http(HttpProbe { port, path: path.to_owned(), tls }));
        assert_eq!(probe("http:8080/health?full=1:2"), http(Some(8080), "/health?full=1:2", false));
        assert_eq!(probe("https:/health"), http(None, "/health", true));
        assert_eq!(probe("http"), http(None, "", false));
        assert_eq!(probe("tcp"), Ok(Probe::Tcp(TcpProbe { port: None })));
        assert_eq!(probe("tcp:53"), Ok(Probe::Tcp(TcpProbe { port: Some(53) })));
        let service = "shop.Cart".to_owned();
        assert_eq!(probe("grpc:9000/shop.Cart"), Ok(Probe::Grpc(GrpcProbe { port: Some(9000), service })));
        let command = ["sh", "-c", "a:b | c/d"].map(str::to_owned).to_vec();
        assert_eq!(probe("cmd:a:b | c/d"), Ok(Probe::Command(CommandProbe { command })));
        for wrong in ["", "cmd:", "tcp:x", "tcp:80/x", "http:70000", "udp:53", "http://host/path"] {
            assert!(probe(wrong).is_err(), "{wrong}");
        }
    }
}
