//! The `muster` command: what people type.
//!
//! stdout is data, stderr is conversation. Each verb is one module under `commands`.

mod arguments;
mod commands;
mod output;
mod report;
mod spec_file;
mod units;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use arguments::Arguments;
use report::Failure;

fn main() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(Arguments::command).complete();
    let arguments = Arguments::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new("start", "the runtime can't be made").because(error.to_string()))
        .and_then(|runtime| runtime.block_on(commands::execute(arguments)));
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            eprint!("{failure}");
            failure.exit_code()
        }
    }
}
