//! How a task's health is judged.

use super::{SpecError, check_command, check_nul, check_range, check_size};
use crate::{Duration, Resources, limits as bounds};

/// A question that the agent asks the task again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub probe: Probe,
    /// Failures in so long after the command began don't count, until one probe has succeeded.
    pub start_period: Duration,
    /// From the start of one probe to the start of the next.
    pub interval: Duration,
    /// Of one probe; at most the interval.
    pub timeout: Duration,
    /// So many failures in a row make it unhealthy.
    pub failures_max: u32,
    /// So many successes in a row make it healthy.
    pub successes_min: u32,
    /// Whether an unhealthy task is killed, within the agent's budget of such kills.
    pub is_killed_when_unhealthy: bool,
}

/// One way to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// GET; an answer of 200 to 399 is a success. Certificates aren't checked.
    Http { port: ProbePort, path: String, is_tls: bool },
    /// A connection can be made.
    Tcp { port: ProbePort },
    /// `grpc.health.v1.Health/Check` of this service answers SERVING.
    Grpc { port: ProbePort, service: String },
    /// The command, run inside the task, ends with 0.
    Command { command: Vec<String> },
}

/// A port number, or the task's first declared port.
pub type ProbePort = Option<u16>;

impl HealthCheck {
    pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
    pub const FAILURES_MAX_DEFAULT: u32 = 3;

    pub(super) fn check(&self, resources: &Resources) -> Result<(), SpecError> {
        let Self {
            probe,
            start_period,
            interval,
            timeout,
            failures_max,
            successes_min,
            is_killed_when_unhealthy: _,
        } = self;
        let ms = |duration: &Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let day = bounds::KILL_GRACE_MS_MAX;
        check_range("the start period (in ms)", ms(start_period), 0, day)?;
        check_range("the probe interval (in ms)", ms(interval), bounds::PROBE_INTERVAL_MS_MIN, day)?;
        check_range("the probe timeout (in ms)", ms(timeout), 1, ms(interval))?;
        check_range("failures until unhealthy", (*failures_max).into(), 1, bounds::PROBES_IN_A_ROW_MAX)?;
        check_range("successes until healthy", (*successes_min).into(), 1, bounds::PROBES_IN_A_ROW_MAX)?;
        let port = match probe {
            Probe::Http { port, path, is_tls: _ } => {
                check_size("the probe's path", path.len(), bounds::PATH_BYTES_MAX)?;
                let is_sound = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
                if !is_sound {
                    let rule = "does not begin with `/`, or holds a blank or what is not ASCII";
                    let found = super::shown(path);
                    return Err(SpecError::Breaks { what: "the probe's path", found, rule });
                }
                port
            }
            Probe::Tcp { port } => port,
            Probe::Grpc { port, service } => {
                check_size("the probe's service", service.len(), bounds::VALUE_BYTES_MAX)?;
                check_nul("the probe's service", service)?;
                port
            }
            Probe::Command { command } => return check_command(command),
        };
        match port {
            Some(0) => check_range("the probe's port", 0, 1, u16::MAX.into()),
            None if resources.ports.is_empty() => Err(SpecError::NoProbePort),
            Some(_) | None => Ok(()),
        }
    }
}
