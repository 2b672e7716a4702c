//! The `muster-coordinator` command: reads its settings, starts the daemon, and says why if it can't.

use std::{
    error::Error,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Arg, ArgAction, ArgMatches, Command};
use coordinator::{
    config::{Config, Loaded, LogFormat, SETTINGS, VARIABLE_PREFIX},
    daemon::{Daemon, FailureCode},
    paper,
    recovery::{self, RecoveryError},
    security,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let matches = command().get_matches();
    if let Some((PAPER, inner)) = matches.subcommand() {
        return write_paper(inner);
    }
    let (verb, settings) = match matches.subcommand() {
        Some((verb, inner)) => (Some(verb), inner),
        None => (None, &matches),
    };
    let loaded = match load(settings) {
        Ok(loaded) => loaded,
        Err(error) => {
            tell("can't take the settings", &error, &error.next(), FailureCode::ConfigInvalid.as_str());
            return ExitCode::from(2);
        }
    };
    if settings.get_flag(PRINT_CONFIG) {
        return print(&loaded.to_text());
    }
    let config = loaded.config;
    if matches.subcommand_name() == Some(INIT) {
        return match security::init(&config) {
            Ok(said) => print(&said),
            Err(error) => {
                let code = FailureCode::TlsUnusable.as_str();
                tell("can't begin a cluster's trust", &error, &error.next(), code);
                ExitCode::FAILURE
            }
        };
    }
    start_logging(&config);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell("can't start the runtime", &error, "see the cause", FailureCode::StartFailed.as_str());
            return ExitCode::FAILURE;
        }
    };
    let file = || settings.get_one::<PathBuf>(FILE).map(PathBuf::as_path).unwrap_or(Path::new(""));
    let code = match verb {
        Some(BACKUP) => recovered(runtime.block_on(recovery::backup(&config, file()))),
        Some(RESTORE) => recovered(recovery::restore(&config, file())),
        Some(_) | None => runtime.block_on(run(&config)),
    };
    // What still blocks a thread has had its time in the daemon's own shutdown.
    runtime.shutdown_background();
    code
}

/// Tells what the verb `backup` or `restore` has done.
fn recovered(done: Result<String, RecoveryError>) -> ExitCode {
    match done {
        Ok(told) => print(&told),
        Err(error) => {
            let cause: &dyn Error = error.source().unwrap_or(&error);
            tell(&error.to_string(), cause, error.next(), error.code().as_str());
            ExitCode::FAILURE
        }
    }
}

async fn run(config: &Config) -> ExitCode {
    let stop = CancellationToken::new();
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        eprintln!("error: can't listen for signals");
        return ExitCode::FAILURE;
    };
    let told = stop.clone();
    let listening = tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping, as told");
        told.cancel();
    });
    let daemon = tokio::select! {
        daemon = Daemon::start(config) => daemon,
        () = stop.cancelled() => return ExitCode::SUCCESS,
    };
    let daemon = match daemon {
        Ok(daemon) => daemon,
        Err(error) => {
            tell("can't start the coordinator", &error, &error.next(), error.code().as_str());
            return ExitCode::FAILURE;
        }
    };
    // Who started us and waits may go on; says nothing where nobody asked (sd_notify(3)).
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "can't tell systemd that the coordinator is ready");
    }
    let outcome = daemon.run(stop).await;
    listening.abort();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell("the coordinator has failed", &error, error.next(), error.code().as_str());
            ExitCode::FAILURE
        }
    }
}

const INIT: &str = "init";
const CONFIG: &str = "config";
const PRINT_CONFIG: &str = "print-config";
/// Hidden: packagers alone need it.
const PAPER: &str = "paper";
const INTO: &str = "into";
const BACKUP: &str = "backup";
const RESTORE: &str = "restore";
const FILE: &str = "file";

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

fn command() -> Command {
    let paper = Command::new(PAPER)
        .hide(true)
        .about("Write manual pages, completion and an example of the settings into a directory")
        .arg(Arg::new(INTO).required(true).value_parser(clap::value_parser!(PathBuf)));
    let file = || {
        let parser = clap::value_parser!(PathBuf);
        Arg::new(FILE).value_name("FILE").required(true).value_parser(parser)
    };
    let backup = Command::new(BACKUP)
        .about("Saves all that a stopped coordinator has on disk; of a running cluster, `muster backup` does")
        .after_help("Examples:\n  muster-coordinator backup --data-dir /var/lib/muster/coordinator /srv/muster.backup")
        .arg(file().help("A file that isn't there yet"));
    let restore = Command::new(RESTORE)
        .about("Makes a data directory of a backup: of one coordinator, alone in its cluster")
        .after_help("Examples:\n  muster-coordinator restore --data-dir /var/lib/muster/coordinator /srv/muster.backup")
        .arg(file().help("What `muster backup` or `muster-coordinator backup` wrote"));
    let init = Command::new(INIT)
        .about(
            "Make the authority of a new cluster, so that coordinators and agents on other machines can join",
        )
        .after_help(
            "Examples:\n  \
             muster-coordinator init\n  \
             muster-coordinator init --data-dir /srv/muster/coordinator",
        );
    let command = Command::new("muster-coordinator")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommands([paper, backup, restore, init])
        .about("Agrees on what shall run, and offers resources to frameworks")
        .after_help(
            "Settings come from the file, then from the environment (MUSTER_COORDINATOR_ and the name in \
             capitals), then from flags; the last one counts.\n\nExamples:\n  \
             muster-coordinator --data-dir /var/lib/muster/coordinator\n  \
             muster-coordinator --config /etc/muster/coordinator.toml --print-config",
        );
    with_settings(command)
}

/// Every setting as a flag, the file, and a look at them.
fn with_settings(command: Command) -> Command {
    let mut command = command
        .arg(
            Arg::new(CONFIG)
                .long(CONFIG)
                .value_name("FILE")
                .global(true)
                .env("MUSTER_COORDINATOR_CONFIG")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Settings as TOML"),
        )
        .arg(
            Arg::new(PRINT_CONFIG)
                .long(PRINT_CONFIG)
                .global(true)
                .action(ArgAction::SetTrue)
                .help("Print every setting, its value and where it came from, and exit"),
        );
    for setting in SETTINGS {
        let default = setting.default_text();
        let help = match default.is_empty() {
            true => setting.help.to_owned(),
            false => format!("{} [default: {default}]", setting.help),
        };
        let flag =
            Arg::new(setting.key).long(setting.key).value_name(setting.value_name).help(help).global(true);
        command = command.arg(flag);
    }
    command
}

fn load(matches: &ArgMatches) -> Result<Loaded, coordinator::config::ConfigError> {
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

#[expect(clippy::print_stdout, reason = "this is what was asked for")]
fn print(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

/// The four parts that a person reads: what failed, why, what to do, and the code to search for.
fn tell(attempted: &str, error: &dyn Error, next: &str, code: &str) {
    eprintln!("error: {attempted}");
    let mut why = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some libraries repeat their cause in their own message.
        let text = error.to_string();
        if !why.ends_with(&text) {
            why += &format!(": {text}");
        }
        cause = error.source();
    }
    eprintln!("why:   {why}");
    eprintln!("next:  {next}");
    eprintln!("code:  {code}");
}
