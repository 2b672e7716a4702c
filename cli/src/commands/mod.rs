//! One module for each noun; each verb is one function.

mod access;
mod agent;
mod agent_care;
mod backup;
mod dev;
mod exec;
mod files;
mod framework;
mod member;
mod offer;
mod profile;
mod role;
mod run;
mod status;
mod task;
mod token;
mod top;

use std::{cell::OnceCell, process::ExitCode};

use clap::CommandFactory;
use muster_client::{Connection, Locator};

use crate::{
    arguments::{self, Arguments, Command, Format},
    output,
    report::{Attempted, Failure},
};

/// What every verb needs: the cluster, and how to print.
pub struct Context {
    pub connection: Connection,
    pub format: Format,
}

/// Does what was typed.
pub async fn execute(arguments: Arguments) -> Result<ExitCode, Failure> {
    let global = arguments.global;
    let asked = OnceCell::new();
    let connect = || -> Result<Context, Failure> {
        let locator = Locator {
            address: global.server.clone(),
            token_file: global.token_file.clone(),
            authority_file: global.ca_file.clone(),
            certificate_file: global.certificate_file.clone(),
        };
        let connection = Connection::open(&locator).attempted("reach the cluster")?;
        let connection = connection.reading(global.consistency.into());
        let connection = asked.get_or_init(|| connection).clone();
        Ok(Context { connection, format: global.output })
    };
    match arguments.command {
        Command::Run(run) => return run::run(&connect()?, *run).await,
        Command::Status => status::show(&connect()?).await?,
        Command::Task(arguments::Task::List { live, framework, agent }) => {
            task::list(&connect()?, live, framework, agent).await?;
        }
        Command::Task(arguments::Task::Show { id }) => task::show(&connect()?, id).await?,
        Command::Task(arguments::Task::Logs { id, follow, stderr, process, tail, since, grep }) => {
            let part = run::Part { tail, since, from: 0 };
            let source = run::Source::new(id, process, stderr);
            task::logs(&connect()?, &source, follow, part, grep).await?;
        }
        Command::Task(arguments::Task::Exec(wish)) => return exec::exec(&connect()?, wish).await,
        Command::Task(arguments::Task::Attach { id, stdin }) => {
            return run::attach(&connect()?, id, stdin).await;
        }
        Command::Task(arguments::Task::Files { id, path, download: false }) => {
            files::list(&connect()?, &id, &path).await?;
        }
        Command::Task(arguments::Task::Files { id, path, download: true }) => {
            files::download(&connect()?, &id, &path, ".".into()).await?;
        }
        Command::Task(arguments::Task::Cp { from, to }) => files::copy(&connect()?, &from, &to).await?,
        Command::Task(arguments::Task::Profile(wish)) => profile::profile(&connect()?, wish).await?,
        Command::Task(arguments::Task::Freeze { ids }) => {
            task::set_frozen(&connect()?, ids, true).await?;
        }
        Command::Task(arguments::Task::Thaw { ids }) => task::set_frozen(&connect()?, ids, false).await?,
        Command::Task(arguments::Task::Signal { id, signal }) => {
            task::signal(&connect()?, id, signal).await?
        }
        Command::Task(arguments::Task::Kill { ids, grace }) => task::kill(&connect()?, ids, grace).await?,
        Command::Task(arguments::Task::Usage { ids, watch }) => task::usage(&connect()?, ids, watch).await?,
        Command::Agent(arguments::Agent::List) => agent::list(&connect()?).await?,
        Command::Agent(arguments::Agent::Show { id }) => agent::show(&connect()?, id).await?,
        Command::Agent(arguments::Agent::Usage { ids }) => agent::usage(&connect()?, ids).await?,
        Command::Agent(arguments::Agent::Deactivate { id }) => {
            agent_care::deactivate(&connect()?, id).await?;
        }
        Command::Agent(arguments::Agent::Activate { id }) => agent_care::activate(&connect()?, id).await?,
        Command::Agent(arguments::Agent::Drain { id, grace, yes }) => {
            agent_care::drain(&connect()?, id, grace, yes).await?;
        }
        Command::Agent(arguments::Agent::Gone { id, yes }) => agent_care::gone(&connect()?, id, yes).await?,
        Command::Agent(arguments::Agent::MarkUnreachable { ids, all_silent: _, yes }) => {
            agent_care::mark_unreachable(&connect()?, ids, yes).await?;
        }
        Command::Framework(arguments::Framework::List) => framework::list(&connect()?).await?,
        Command::Framework(arguments::Framework::Teardown { id, yes }) => {
            framework::teardown(&connect()?, id, yes).await?;
        }
        Command::Offer(arguments::Offer::List) => offer::list(&connect()?).await?,
        Command::Role(arguments::Role::List) => role::list(&connect()?).await?,
        Command::Role(arguments::Role::Set { role, weight }) => role::set(&connect()?, role, weight).await?,
        Command::Member(arguments::Member::List) => member::list(&connect()?).await?,
        Command::Member(arguments::Member::Add { id, address }) => {
            member::add(&connect()?, id, address).await?;
        }
        Command::Member(arguments::Member::Remove { id }) => member::remove(&connect()?, id).await?,
        Command::Member(arguments::Member::Transfer { id }) => member::transfer(&connect()?, id).await?,
        Command::Backup { file } => backup::save(&connect()?, &file).await?,
        Command::Token(arguments::Token::Create { joiner, ttl, only_for }) => {
            token::create(&connect()?, joiner, ttl, only_for).await?;
        }
        Command::Token(arguments::Token::List) => token::list(&connect()?).await?,
        Command::Token(arguments::Token::Revoke { id }) => token::revoke(&connect()?, id).await?,
        Command::User(verb) => access::user(&connect()?, verb).await?,
        Command::Policy(verb) => return access::policy(&connect()?, verb).await,
        Command::Certificate(verb) => access::certificate(&connect()?, verb).await?,
        Command::Top(options) => top::top(&connect()?, options).await?,
        Command::Dev(dev) => return dev::dev(dev).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::aot::generate(shell, &mut Arguments::command(), "muster", &mut script);
            output::print_text(&String::from_utf8_lossy(&script))?;
        }
        Command::Paper { into } => {
            const ATTEMPTED: &str = "write the manual pages";
            use clap_complete::aot::Shell;
            clap_mangen::generate_to(Arguments::command(), &into).attempted(ATTEMPTED)?;
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                let mut command = Arguments::command();
                clap_complete::aot::generate_to(shell, &mut command, "muster", &into).attempted(ATTEMPTED)?;
            }
        }
    }
    if let Some(freshness) = asked.get().and_then(Connection::freshness) {
        output::print_note(&freshness.to_string());
    }
    Ok(ExitCode::SUCCESS)
}
