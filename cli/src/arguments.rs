//! What can be typed: nouns, verbs and flags.

pub mod access;
pub mod asked;
pub mod checked;
mod fetch;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use muster_client::{Consistency, types::Fetch};

use crate::units;

/// One pool out of many Linux hosts: run tasks, look at them, end them.
#[derive(Debug, Parser)]
#[command(name = "muster", version, propagate_version = true, max_term_width = 100, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  muster run --cpus 0.5 --mem 64MiB --name hello -- sh -c 'echo hi; sleep 2; exit 3'
  muster task list";

#[derive(Debug, Args)]
pub struct Global {
    /// The coordinator: https://HOST:PORT, http:// on this machine, or unix:PATH [default:
    /// 127.0.0.1:5050]
    #[arg(
        long,
        global = true,
        env = "MUSTER_SERVER",
        hide_env_values = true,
        value_name = "ADDRESS",
        help_heading = "Cluster"
    )]
    pub server: Option<String>,
    /// File with the token that proves who calls [default: where the coordinator put it]
    #[arg(
        long,
        global = true,
        env = "MUSTER_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Cluster"
    )]
    pub token_file: Option<PathBuf>,
    /// File with the certificate of the cluster's authority, for https:// [default: where the
    /// coordinator put it]
    #[arg(
        long,
        global = true,
        env = "MUSTER_CA_FILE",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Cluster"
    )]
    pub ca_file: Option<PathBuf>,
    /// How fresh answers must be: what the leader has applied, what the coordinator that is asked
    /// has (also while none leads; stderr says how fresh that is), or all that was acknowledged
    /// before
    #[arg(long, global = true, value_enum, default_value_t = Reading::Leader, help_heading = "Cluster")]
    pub consistency: Reading,
    /// File with a user's certificate and key, for https://; shown instead of a token
    #[arg(
        long,
        global = true,
        env = "MUSTER_CERTIFICATE_FILE",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Cluster"
    )]
    pub certificate_file: Option<PathBuf>,
    /// What stdout gets: tables for people, stable JSON for scripts
    #[arg(long, global = true, value_enum, default_value_t = Format::Table, help_heading = "Output")]
    pub output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reading {
    Leader,
    Local,
    Linearizable,
}

impl From<Reading> for Consistency {
    fn from(reading: Reading) -> Self {
        match reading {
            Reading::Leader => Self::Leader,
            Reading::Local => Self::Local,
            Reading::Linearizable => Self::Linearizable,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a command in the cluster and shows its output
    Run(Box<Run>),
    /// Shows the cluster in one look
    #[command(after_help = "Examples:\n  muster status\n  muster status --output json")]
    Status,
    /// Looks at tasks and ends them
    #[command(subcommand)]
    Task(Task),
    /// Looks at agents, the machines of the cluster
    #[command(subcommand)]
    Agent(Agent),
    /// Looks at frameworks and ends them
    #[command(subcommand)]
    Framework(Framework),
    /// Looks at outstanding offers
    #[command(subcommand)]
    Offer(Offer),
    /// Looks at roles and sets their weights
    #[command(subcommand)]
    Role(Role),
    /// Looks at coordinators, and changes which there are
    #[command(subcommand)]
    Member(Member),
    /// Saves all that the cluster agreed on into a file, for `muster-coordinator restore`
    ///
    /// The file has what tasks were given as secrets, and is readable by its owner alone.
    #[command(after_help = "Examples:\n  muster backup /srv/muster-$(date +%F).backup")]
    Backup {
        /// A file that isn't there yet
        file: PathBuf,
    },
    /// Lets agents and coordinators on other machines into the cluster
    #[command(subcommand)]
    Token(Token),
    /// Looks at users, and gives people and frameworks credentials of their own
    #[command(subcommand)]
    User(access::User),
    /// Looks at duties, which say who may do what, and changes them
    #[command(subcommand)]
    Policy(access::Policy),
    /// Revokes certificates of agents, users and coordinators
    #[command(subcommand)]
    Certificate(access::Certificate),
    /// Shows live tasks and agents with what they use, again and again
    Top(Top),
    /// Starts a whole cluster on this machine: one coordinator, one agent, loopback only
    Dev(Dev),
    /// Prints what a shell needs to complete `muster` commands
    #[command(
        after_help = "Examples:\n  muster completion bash > /etc/bash_completion.d/muster\n  source <(muster completion zsh)"
    )]
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::aot::Shell,
    },
    /// Writes manual pages and completion into a directory, for packagers
    #[command(hide = true)]
    Paper { into: std::path::PathBuf },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster run --cpus 0.5 --mem 64MiB --name hello -- sh -c 'echo hi; sleep 2; exit 3'
  muster run --count 20 --name batch --env STEP=1 -- ./work
  muster run --detach --health http:8080/health --health-kill -- ./server
  muster run --mem 256MiB --mem-limit 1GiB --cpuset 0-1 --secret key=@/etc/app.key -- ./serve
  muster run --stdin -- sort < names
  muster run --spec group.toml --mem 256MiB

Ends with the exit code of the command (128 + the signal's number when a signal ended it),
or with 1 when any of several tasks failed. Ctrl-C kills what runs.")]
pub struct Run {
    /// CPU cores, for example 0.5 [default: 0.1]
    #[arg(long, value_parser = units::thousandths, value_name = "CORES", help_heading = "Resources")]
    pub cpus: Option<u64>,
    /// Memory, for example 64MiB or 1.5GiB; a hard limit unless --mem-limit is above it [default: 64MiB]
    #[arg(long, value_parser = units::mebibytes, value_name = "SIZE", help_heading = "Resources")]
    pub mem: Option<u64>,
    /// Disk, for example 1GiB
    #[arg(long, value_parser = units::mebibytes, value_name = "SIZE", help_heading = "Resources")]
    pub disk: Option<u64>,
    /// Whole GPUs
    #[arg(long, value_name = "NUMBER", help_heading = "Resources")]
    pub gpus: Option<u32>,
    /// Hard limit on CPU, at least --cpus [default: the same]
    #[arg(long, value_parser = units::thousandths, value_name = "CORES", help_heading = "Resources")]
    pub cpu_limit: Option<u64>,
    /// Most processes and threads at once
    #[arg(long, value_name = "NUMBER", help_heading = "Resources")]
    pub pids_limit: Option<u32>,
    /// Name for people; ids are made from it [default: the program's name]
    #[arg(long, help_heading = "Task")]
    pub name: Option<String>,
    /// Variable for the task's environment; may be repeated
    #[arg(long, value_parser = units::key_value, value_name = "NAME=VALUE", help_heading = "Task")]
    pub env: Vec<(String, String)>,
    /// User to run as, by name or number [default: the agent's, usually nobody]
    #[arg(long, help_heading = "Task")]
    pub user: Option<String>,
    /// Working directory [default: the task's sandbox]
    #[arg(long, value_name = "DIR", help_heading = "Task")]
    pub cwd: Option<String>,
    /// Label for people and tools; may be repeated
    #[arg(long, value_parser = units::key_value, value_name = "NAME=VALUE", help_heading = "Task")]
    pub label: Vec<(String, String)>,
    /// File to bring into the sandbox before it begins: sha256=DIGEST, unpack, executable, path=PATH; may be repeated
    #[arg(long, value_parser = fetch::parse, value_name = "URL[,OPTION…]", help_heading = "Task")]
    pub fetch: Vec<Fetch>,
    /// Signal that asks the task to end [default: TERM]
    #[arg(long, value_enum, ignore_case = true, value_name = "SIGNAL", help_heading = "Task")]
    pub kill_signal: Option<KillSignal>,
    /// How long that signal may take before SIGKILL [default: 10s]
    #[arg(long, value_parser = units::duration, value_name = "TIME", help_heading = "Task")]
    pub kill_grace: Option<Duration>,
    /// How long the task may run; it is asked to end then, and has failed
    #[arg(long, value_parser = units::duration, value_name = "TIME", help_heading = "Task")]
    pub run_time_max: Option<Duration>,
    /// File that describes the task, in TOML or JSON; what is said here wins over it
    #[arg(long, value_name = "FILE", help_heading = "How")]
    pub spec: Option<PathBuf>,
    /// Passes stdin on to the task; with --detach, to whoever attaches with --stdin
    #[arg(short = 'i', long, help_heading = "How")]
    pub stdin: bool,
    /// How many tasks of this kind to run
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "How")]
    pub count: u32,
    /// Prints the ids of the tasks and leaves them running
    #[arg(long, help_heading = "How")]
    pub detach: bool,
    /// The program and its arguments
    #[arg(last = true, required_unless_present = "spec", value_name = "COMMAND")]
    pub command: Vec<String>,
    // Last, because their heading would be that of what comes after.
    #[command(flatten)]
    pub health: checked::Health,
    #[command(flatten)]
    pub limits: asked::Limits,
    #[command(flatten)]
    pub rights: asked::Rights,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum KillSignal {
    Hup,
    Int,
    Quit,
    Usr1,
    Usr2,
    Term,
}

#[derive(Debug, Subcommand)]
pub enum Task {
    /// Lists tasks, live ones first
    #[command(after_help = "Examples:\n  muster task list --live\n  muster task list --output json")]
    List {
        /// Leaves out tasks that are over
        #[arg(long)]
        live: bool,
        /// Only tasks of this framework
        #[arg(long, value_name = "ID")]
        framework: Option<String>,
        /// Only tasks on this agent
        #[arg(long, value_name = "ID")]
        agent: Option<String>,
    },
    /// Shows everything about one task
    #[command(
        after_help = "Examples:\n  muster task show hello.7f3c91ab\n  muster task show hello.7f3c91ab --output json"
    )]
    Show { id: String },
    /// Prints what a task has written
    #[command(
        after_help = "Examples:\n  muster task logs hello.7f3c91ab -f\n  muster task logs hello.7f3c91ab --stderr --since 10m --grep 'error|warn'\n  muster task logs group.7f3c91ab --process web"
    )]
    Logs {
        id: String,
        /// Goes on until the task is over
        #[arg(short, long)]
        follow: bool,
        /// Its stderr instead of its stdout
        #[arg(long)]
        stderr: bool,
        /// Of this process of a task group
        #[arg(long, value_name = "NAME")]
        process: Option<String>,
        /// Only the last part, for example 4KiB
        #[arg(long, value_parser = tail_bytes, value_name = "SIZE")]
        tail: Option<u64>,
        /// Only what was written in the last part of time, for example 10m; exact to about a second
        #[arg(long, value_parser = units::duration, value_name = "TIME", conflicts_with = "tail")]
        since: Option<Duration>,
        /// Only lines in which this regular expression is found
        #[arg(long, value_parser = pattern, value_name = "REGEX")]
        grep: Option<regex::bytes::Regex>,
    },
    /// Executes one more process in a running task, in its namespaces and limits and as its user
    #[command(after_help = "Examples:
  muster task exec hello.7f3c91ab -- ps
  muster task exec -it hello.7f3c91ab -- sh

Ends with the exit code of the command (128 + the signal's number when a signal ended it).
What it leaves running in its session ends with it. With -t, the keys Enter ~ . hang up.")]
    Exec(Exec),
    /// Shows what a task writes from now on, both outputs, until it ends; Ctrl-C only stops looking
    #[command(after_help = "Examples:
  muster task attach hello.7f3c91ab
  muster task attach hello.7f3c91ab > out 2> err
  muster task attach --stdin hello.7f3c91ab < commands

The end of stdin here (Ctrl-D) is the end of the task's input, for good; Ctrl-C leaves it open for the next.")]
    Attach {
        id: String,
        /// Passes stdin on to the task, which must have been run with --stdin
        #[arg(short = 'i', long)]
        stdin: bool,
    },
    /// Lists what is in a task's sandbox, also after its end while it is kept
    #[command(
        after_help = "Examples:\n  muster task files hello.7f3c91ab\n  muster task files hello.7f3c91ab logs --download"
    )]
    Files {
        id: String,
        /// File or directory, relative to the sandbox
        #[arg(default_value = "")]
        path: String,
        /// Copies it into the current directory instead
        #[arg(long)]
        download: bool,
    },
    /// Copies files and directories to or from a task's sandbox
    #[command(after_help = "Examples:
  muster task cp hello.7f3c91ab:results ./results
  muster task cp ./input.csv hello.7f3c91ab:

What is copied to a task belongs to the task's user. Devices, pipes and hard links are not copied.")]
    Cp {
        /// PATH here, or TASK:PATH relative to the task's sandbox
        #[arg(value_name = "FROM")]
        from: String,
        /// The same; a directory that is there gets the copy in it
        #[arg(value_name = "TO")]
        to: String,
    },
    /// Shows where a task spends its CPU time, as a flame graph (SVG); Ctrl-C draws what was sampled so far
    #[command(after_help = "Examples:
  muster task profile hello.7f3c91ab --seconds 30 -o flame.svg
  muster task profile hello.7f3c91ab --folded | sort -k2 -n

Deep stacks need programs with frame pointers (Rust: -C force-frame-pointers=yes, C: -fno-omit-frame-pointer).
What has no name is shown as its place in a file, such as libfoo.so+0x1a2b.")]
    Profile(Profile),
    /// Stops tasks where they stand, until they are thawed or killed
    #[command(
        after_help = "Examples:\n  muster task freeze hello.7f3c91ab\n  muster task show hello.7f3c91ab"
    )]
    Freeze {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Lets frozen tasks go on
    #[command(after_help = "Examples:\n  muster task thaw hello.7f3c91ab\n  muster task thaw a.1 a.2")]
    Thaw {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Sends a signal to a task's command, such as SIGHUP to have it read its settings again
    #[command(
        after_help = "Examples:\n  muster task signal hello.7f3c91ab HUP\n  muster task signal hello.7f3c91ab SIGUSR1\n\nA signal that ends the task makes it FAILED; `muster task kill` is for ending."
    )]
    Signal {
        id: String,
        /// By its name, with or without SIG, or its number
        #[arg(value_parser = units::signal)]
        signal: u32,
    },
    /// Ends tasks: SIGTERM, then SIGKILL when the grace is over
    #[command(
        after_help = "Examples:\n  muster task kill hello.7f3c91ab\n  muster task kill hello.7f3c91ab --grace 1s"
    )]
    Kill {
        #[arg(required = true)]
        ids: Vec<String>,
        /// How long SIGTERM may take [default: the task's own]
        #[arg(long, value_parser = units::duration, value_name = "TIME")]
        grace: Option<Duration>,
    },
    /// Shows what live tasks really use, as the kernel measures it
    #[command(after_help = "Examples:\n  muster task usage\n  muster task usage --watch")]
    Usage {
        /// Only these tasks
        ids: Vec<String>,
        /// Again every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
}

#[derive(Debug, Args)]
pub struct Profile {
    pub id: String,
    /// How long; 1 to 300
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=300))]
    pub seconds: u32,
    /// Samples per second on each CPU; 1 to 999
    #[arg(long, value_name = "HERTZ", default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=999))]
    pub frequency: u32,
    /// Where it is written; `-` for stdout [default: TASK.svg, or stdout with --folded]
    #[arg(short = 'o', long, value_name = "FILE")]
    pub file: Option<String>,
    /// As text: one line for each stack, from the outermost frame, and how often it was seen
    #[arg(long)]
    pub folded: bool,
}

#[derive(Debug, Args)]
pub struct Exec {
    pub id: String,
    /// Passes stdin on
    #[arg(short, long)]
    pub interactive: bool,
    /// With a terminal, as for a shell
    #[arg(short, long)]
    pub terminal: bool,
    /// Variable for the command's environment; may be repeated
    #[arg(long, value_parser = units::key_value, value_name = "NAME=VALUE")]
    pub env: Vec<(String, String)>,
    /// Working directory [default: the task's]
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

fn pattern(text: &str) -> Result<regex::bytes::Regex, String> {
    regex::bytes::Regex::new(text).map_err(|error| error.to_string())
}

/// A size in bytes, of which part of a MiB makes sense.
fn tail_bytes(text: &str) -> Result<u64, String> {
    if let Some(number) = text.strip_suffix("KiB") {
        return number
            .parse::<u64>()
            .map(|kib| kib * 1024)
            .map_err(|_| format!("`{text}` is not a size like 4KiB"));
    }
    if let Ok(bytes) = text.parse::<u64>() {
        return Ok(bytes);
    }
    units::mebibytes(text).map(|mib| mib << 20)
}

#[derive(Debug, Subcommand)]
pub enum Agent {
    /// Lists agents with what they have and what is taken
    #[command(after_help = "Examples:\n  muster agent list\n  muster agent list --output json")]
    List,
    /// Shows everything about one agent
    #[command(
        after_help = "Examples:\n  muster agent show AGENT-ID\n  muster agent show AGENT-ID --output json"
    )]
    Show { id: String },
    /// Takes an agent out of use: nothing more is launched there, and its tasks run on
    #[command(after_help = "Examples:\n  muster agent deactivate AGENT-ID\n  muster agent activate AGENT-ID")]
    Deactivate { id: String },
    /// Takes a deactivated agent into use again
    #[command(after_help = "Examples:\n  muster agent activate AGENT-ID\n  muster agent show AGENT-ID")]
    Activate { id: String },
    /// Takes an agent out of use and kills its tasks, so that its host can be worked on
    #[command(
        after_help = "Examples:\n  muster agent drain AGENT-ID\n  muster agent drain AGENT-ID --grace 2m --yes"
    )]
    Drain {
        id: String,
        /// Time for the tasks to end by themselves [default: each task's own]
        #[arg(long, value_parser = units::duration, value_name = "TIME")]
        grace: Option<Duration>,
        /// Doesn't ask
        #[arg(long)]
        yes: bool,
    },
    /// Says that an agent never comes back: its tasks are gone, and so is its id
    #[command(after_help = "Examples:\n  muster agent gone AGENT-ID\n  muster agent gone AGENT-ID --yes")]
    Gone {
        id: String,
        /// Doesn't ask
        #[arg(long)]
        yes: bool,
    },
    /// Confirms that silent agents don't answer, so that their tasks are replaced
    #[command(
        after_help = "Examples:\n  muster agent mark-unreachable AGENT-ID\n  muster agent mark-unreachable --all-silent --yes"
    )]
    MarkUnreachable {
        #[arg(required_unless_present = "all_silent")]
        ids: Vec<String>,
        /// All that `muster agent list` shows as silent
        #[arg(long, conflicts_with = "ids")]
        all_silent: bool,
        /// Doesn't ask
        #[arg(long)]
        yes: bool,
    },
    /// Shows what the hosts of agents use in all, tasks and everything else
    #[command(after_help = "Examples:\n  muster agent usage\n  muster agent usage --output json")]
    Usage {
        /// Only these agents
        ids: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Framework {
    /// Lists frameworks
    #[command(after_help = "Examples:\n  muster framework list\n  muster framework list --output json")]
    List,
    /// Ends a framework: kills its tasks; its id is never used again
    #[command(
        after_help = "Examples:\n  muster framework teardown FRAMEWORK-ID\n  muster framework teardown FRAMEWORK-ID --yes"
    )]
    Teardown {
        id: String,
        /// Does not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Offer {
    /// Lists outstanding offers, and says why others got none
    #[command(after_help = "Examples:\n  muster offer list\n  muster offer list --output json")]
    List,
}

#[derive(Debug, Subcommand)]
pub enum Role {
    /// Lists roles with their weights and what they use
    #[command(after_help = "Examples:\n  muster role list\n  muster role list --output json")]
    List,
    /// Sets the weight of a role: its share beside the others
    #[command(
        after_help = "Examples:\n  muster role set web --weight 2\n  muster role set batch --weight 0.5"
    )]
    Set {
        role: String,
        #[arg(long, value_parser = units::thousandths, value_name = "NUMBER")]
        weight: u64,
    },
}

#[derive(Debug, Subcommand)]
pub enum Member {
    /// Lists the coordinators: who leads, who votes, who still learns
    #[command(after_help = "Examples:\n  muster member list\n  muster member list --output json")]
    List,
    /// Gives a coordinator a seat, and a vote once it has caught up
    ///
    /// A coordinator that is started with `--join` does this by itself.
    #[command(after_help = "Examples:\n  muster member add 2 127.0.0.1:5052")]
    Add {
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
        /// Where the other coordinators reach it: host:port
        address: String,
    },
    /// Takes a coordinator's seat away; stop it afterwards
    #[command(after_help = "Examples:\n  muster member remove 2")]
    Remove {
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
    },
    /// Hands the lead to another coordinator
    #[command(after_help = "Examples:\n  muster member transfer\n  muster member transfer 3")]
    Transfer {
        /// The next leader [default: the one that has most of the log]
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        id: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Makes a token that lets one in, once, and prints it
    #[command(
        after_help = "Examples:\n  muster token create agent > agent-7.token\n  muster token create member --ttl 10m"
    )]
    Create {
        joiner: Joiner,
        /// How long it may be used
        #[arg(long, value_parser = units::duration, value_name = "DURATION", default_value = "1h")]
        ttl: std::time::Duration,
        /// The only agent or member that may use it; needed for one that is there already
        #[arg(long, value_name = "ID")]
        only_for: Option<String>,
    },
    /// Lists tokens: which are open, and who came in with the others
    #[command(after_help = "Examples:\n  muster token list\n  muster token list --output json")]
    List,
    /// Makes a token useless; who came in with it stays
    #[command(after_help = "Examples:\n  muster token revoke 3f9c21aa")]
    Revoke {
        /// As the list shows it
        id: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Joiner {
    Agent,
    /// A coordinator
    Member,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster top
  muster top --once --sort mem

Rates are over the last two samples of each. A figure that is not available shows as `-`.")]
pub struct Top {
    /// Agents' hosts instead of tasks
    #[arg(long)]
    pub agents: bool,
    /// Only what has this in its id, or in its agent's or host's name
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Column to sort by: cpu, thr, wait, mem, flt, rx, tx, rd, wr and more [default: cpu]
    #[arg(long, value_name = "COLUMN")]
    pub sort: Option<String>,
    /// Prints one table and ends
    #[arg(long)]
    pub once: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sudo muster dev
  sudo muster dev --keep --data-dir /var/lib/muster-dev

Ctrl-C ends the tasks, the agent and the coordinator, and leaves nothing behind but the data directory.")]
pub struct Dev {
    /// Where state is kept; a second start goes on from it
    #[arg(long, default_value = "/var/lib/muster-dev", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Leaves the tasks running at the end
    #[arg(long)]
    pub keep: bool,
    /// The coordinator's address, on loopback
    #[arg(long, default_value = "127.0.0.1:5050", value_name = "HOST:PORT")]
    pub listen: String,
    /// The agent's address, on loopback
    #[arg(long, default_value = "127.0.0.1:5051", value_name = "HOST:PORT")]
    pub agent_listen: String,
    /// The agent's cgroup
    #[arg(long, default_value = "muster", value_name = "NAME")]
    pub cgroup_parent: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use expect_test::expect_file;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn help_says_what_it_always_said() {
        let mut help = String::new();
        let mut command = Arguments::command();
        command.build();
        collect(&mut command, &mut help);
        expect_file!["../tests/help.txt"].assert_eq(&help);
    }

    fn collect(command: &mut clap::Command, help: &mut String) {
        let text = command.render_help();
        *help += &format!("---- {}\n{text}\n", command.get_bin_name().unwrap_or("muster"));
        for child in
            command.get_subcommands_mut().filter(|child| child.get_name() != "help" && !child.is_hide_set())
        {
            collect(child, help);
        }
    }

    #[test]
    fn a_command_stands_behind_two_dashes() {
        let arguments =
            Arguments::try_parse_from(["muster", "run", "--cpus", "0.5", "--", "sh", "-c", "x"]).unwrap();
        let Command::Run(run) = arguments.command else { panic!("not a run") };
        let command = ["sh", "-c", "x"].map(String::from).to_vec();
        assert_eq!((run.cpus, run.mem, run.command), (Some(500), None, command));
    }
}
