//! The `muster-agent` command: reads its settings, starts the daemon, and says why if it can't.

use std::{
    error::Error,
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use agent::{
    actor::Stop,
    config::{Config, ConfigError, Loaded, LogFormat, SETTINGS, VARIABLE_PREFIX},
    daemon::{self, Daemon, FailureCode},
    doctor, fetch, inspect, paper, privileges, profile,
    sys::{FETCH_VERB, NAME_VERB, capability},
};
use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

fn main() -> ExitCode {
    // The agent's own processes, which need none of all this.
    let own = std::env::args_os().nth(1).and_then(|verb| match verb.to_str()? {
        FETCH_VERB => Some(fetch::child::run()),
        NAME_VERB => Some(profile::child::run()),
        _ => None,
    });
    if let Some(ended) = own {
        return match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let matches = command().get_matches();
    let verb = matches.subcommand().map_or("run", |(verb, _)| verb).to_owned();
    if let Some((PAPER, inner)) = matches.subcommand() {
        return write_paper(inner);
    }
    // Settings may stand before the verb and after it.
    let inner = matches.subcommand().map_or(&matches, |(_, inner)| inner);
    let loaded = match load(inner) {
        Ok(loaded) => loaded,
        Err(error) => {
            tell("can't take the settings", &error, &error.next(), FailureCode::ConfigInvalid.as_str());
            return ExitCode::from(2);
        }
    };
    if inner.get_flag(PRINT_CONFIG) {
        return print(&loaded.to_text(), true);
    }
    let config = loaded.config;
    start_logging(&config);
    match verb.as_str() {
        DOCTOR if inner.get_flag(FIX) => fix(&config, inner.get_flag(YES)),
        DOCTOR => {
            let (report, can_run) = doctor::examine(&config);
            print(&report, can_run)
        }
        INSPECT => print(&inspect::report(&config), true),
        _ if inner.get_flag(DRY_RUN) => show_plan(&config),
        _ => start(&config),
    }
}

fn fix(config: &Config, is_agreed: bool) -> ExitCode {
    let fixed = doctor::fix(config, is_agreed, &mut std::io::stdin().lock(), &mut std::io::stdout());
    match fixed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: can't ask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_paper(matches: &ArgMatches) -> ExitCode {
    let Some(into) = matches.get_one::<PathBuf>(INTO) else { return ExitCode::FAILURE };
    match paper::write(command(), into) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: can't write into {}: {error}", into.display());
            ExitCode::FAILURE
        }
    }
}

fn show_plan(config: &Config) -> ExitCode {
    match daemon::plan(config) {
        Ok(actions) => print(&actions.iter().map(|line| format!("{line}\n")).collect::<String>(), true),
        Err(error) => {
            tell("can't plan a start", &error, &error.next(), error.code().as_str());
            ExitCode::FAILURE
        }
    }
}

fn start(config: &Config) -> ExitCode {
    // Who has given up SYSLOG sees no addresses in it.
    profile::keep_kernel_symbols();
    let for_tasks = config.allow_capabilities.iter().filter_map(|name| capability::of_name(name));
    if let Err(error) = privileges::give_up(for_tasks.collect()) {
        tell("can't give up rights", &error, "see the cause", FailureCode::StartFailed.as_str());
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell("can't start the runtime", &error, "see the cause", FailureCode::StartFailed.as_str());
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(config));
    // What still blocks a thread has had its time in the daemon's own shutdown.
    runtime.shutdown_background();
    code
}

async fn run(config: &Config) -> ExitCode {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        eprintln!("error: can't listen for signals");
        return ExitCode::FAILURE;
    };
    let (told, stop) = watch::channel(Stop::No);
    let ends_tasks = config.end_tasks_on_exit;
    let listening = tokio::spawn(async move {
        // An agent that is replaced gets SIGTERM, and its tasks go on; a person at the terminal means it all.
        let (name, how) = tokio::select! {
            _ = terminate.recv() => ("SIGTERM", if ends_tasks { Stop::EndTasks } else { Stop::LeaveTasks }),
            _ = interrupt.recv() => ("SIGINT", Stop::EndTasks),
        };
        tracing::info!(signal = name, ends_tasks = how == Stop::EndTasks, "stopping, as told");
        told.send_replace(how);
        // Held until the end, so that nobody takes its loss for a word.
        std::future::pending::<()>().await;
        drop(told);
    });
    let daemon = match Daemon::start(config).await {
        Ok(daemon) => daemon,
        Err(error) => {
            tell("can't start the agent", &error, &error.next(), error.code().as_str());
            return ExitCode::FAILURE;
        }
    };
    let outcome = daemon.run(stop).await;
    listening.abort();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell("the agent has stopped", &error, &error.next(), error.code().as_str());
            if error.is_for_good() { ExitCode::from(REFUSED_FOR_GOOD) } else { ExitCode::FAILURE }
        }
    }
}

/// What systemd does not start again, by agreement with the unit.
const REFUSED_FOR_GOOD: u8 = 3;

const CONFIG: &str = "config";
const PRINT_CONFIG: &str = "print-config";
const DRY_RUN: &str = "dry-run";
const DOCTOR: &str = "doctor";
const FIX: &str = "fix";
const YES: &str = "yes";
const INSPECT: &str = "inspect";
/// Hidden: packagers alone need it.
const PAPER: &str = "paper";
const INTO: &str = "into";

fn command() -> Command {
    let command = with_settings(Command::new("muster-agent"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Runs what the coordinator assigns to this host, and says what it sees")
        .args_conflicts_with_subcommands(true)
        .after_help(
            "Settings come from the file, then from the environment (MUSTER_AGENT_ and the name in capitals), \
             then from flags; the last one counts.\n\
             SIGTERM stops the agent and leaves its tasks running; SIGINT ends them too.\n\nExamples:\n  \
             muster-agent --coordinator http://127.0.0.1:5050 --token-file /var/lib/muster/coordinator/token\n  \
             muster-agent doctor",
        );
    let verbs = [
        ("run", "Run the agent (the default)"),
        (DOCTOR, "Say what this host offers, and what is lost where it does not"),
        (INSPECT, "Show tasks as recorded, running and on disk, side by side"),
    ];
    let command = command.subcommand(
        Command::new(PAPER)
            .hide(true)
            .about("Write manual pages, completion and an example of the settings into a directory")
            .arg(Arg::new(INTO).required(true).value_parser(clap::value_parser!(PathBuf))),
    );
    verbs.into_iter().fold(command, |command, (verb, about)| {
        let about = with_settings(Command::new(verb)).about(about);
        command.subcommand(if verb == DOCTOR { with_fixes(about) } else { about })
    })
}

fn with_fixes(doctor: Command) -> Command {
    doctor
        .arg(
            Arg::new(FIX)
                .long(FIX)
                .action(ArgAction::SetTrue)
                .help("Offer to mend what can be mended, one by one, with what, why and how to undo it"),
        )
        .arg(Arg::new(YES).long(YES).action(ArgAction::SetTrue).requires(FIX).help("Mend all of it unasked"))
        .after_help(
            "Ends with 0 when an agent can run here (or nothing is left to mend), and else with 1.\n\nExamples:\n  \
             muster-agent doctor --config /etc/muster/agent.toml\n  muster-agent doctor --fix",
        )
}

fn with_settings(command: Command) -> Command {
    let command = command
        .arg(
            Arg::new(CONFIG)
                .long(CONFIG)
                .value_name("FILE")
                .env("MUSTER_AGENT_CONFIG")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Settings as TOML"),
        )
        .arg(
            Arg::new(PRINT_CONFIG)
                .long(PRINT_CONFIG)
                .action(ArgAction::SetTrue)
                .help("Print every setting, its value and where it came from, and exit"),
        )
        .arg(
            Arg::new(DRY_RUN)
                .long(DRY_RUN)
                .action(ArgAction::SetTrue)
                .help("Print what a start would do with what an earlier agent left, and exit"),
        );
    SETTINGS.iter().fold(command, |command, setting| {
        let default = setting.default_text();
        let help = match default.is_empty() || setting.value_name.is_none() {
            true => setting.help.to_owned(),
            false => format!("{} [default: {default}]", setting.help),
        };
        let flag = Arg::new(setting.key).long(setting.key).help(help);
        let flag = match setting.value_name {
            Some(name) => flag.value_name(name),
            None => {
                flag.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
            }
        };
        command.arg(flag)
    })
}

fn load(matches: &ArgMatches) -> Result<Loaded, ConfigError> {
    let flags = SETTINGS.iter().filter_map(|setting| {
        let value = matches.get_one::<String>(setting.key)?;
        Some((setting.key, value.clone()))
    });
    // A variable that is no text can't be one of ours that is right; its name still can be.
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(VARIABLE_PREFIX))?;
        Some((name, value.to_string_lossy().into_owned()))
    });
    Loaded::load(matches.get_one::<PathBuf>(CONFIG).map(PathBuf::as_path), variables, flags)
}

fn start_logging(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::new(&config.log_filter);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Human => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn print(text: &str, is_good: bool) -> ExitCode {
    // A reader that has seen enough closes the pipe.
    let _ = write!(std::io::stdout(), "{text}");
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The four parts that a person reads: what failed, why, what to do, and the code to search for.
fn tell(attempted: &str, error: &dyn Error, next: &str, code: &str) {
    eprintln!("error: {attempted}");
    eprintln!("why:   {}", agent::execute::chain(error));
    eprintln!("next:  {next}");
    eprintln!("code:  {code}");
}
