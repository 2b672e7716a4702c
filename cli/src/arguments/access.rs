//! Flags of `user`, `policy` and `certificate`: who may do what.

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;

use crate::units;

#[derive(Debug, Subcommand)]
pub enum User {
    /// Makes a user, or gives one that is there other duties
    #[command(
        after_help = "Examples:\n  muster user add ann --duty operator\n  muster user add shop --duty framework --duty viewer"
    )]
    Add {
        name: String,
        /// What the user may do: admin, operator, viewer, framework, or one of your own (`muster policy set`)
        #[arg(long = "duty", value_name = "DUTY", required = true)]
        duties: Vec<String>,
    },
    /// Lists users with their duties and tokens
    #[command(after_help = "Examples:\n  muster user list\n  muster user list --output json")]
    List,
    /// Ends a user: its tokens and certificates count no more, and what it has open ends
    #[command(after_help = "Examples:\n  muster user remove ann")]
    Remove { name: String },
    /// Makes a token for a user, and prints it
    #[command(
        after_help = "Examples:\n  muster user token ann > ann.token\n  muster user token shop --ttl 7d > shop.token"
    )]
    Token {
        name: String,
        /// How long it counts
        #[arg(long, value_parser = units::duration, value_name = "DURATION", default_value = "30d")]
        ttl: Duration,
    },
    /// Makes a certificate for a user, with a new key, and writes both into one file
    #[command(
        after_help = "Examples:\n  muster user certificate ann ann.pem\n  muster user certificate shop shop.pem --ttl 7d"
    )]
    Certificate {
        name: String,
        /// A file that isn't there yet; readable by its owner alone
        file: PathBuf,
        /// How long it counts
        #[arg(long, value_parser = units::duration, value_name = "DURATION", default_value = "1d")]
        ttl: Duration,
    },
    /// Makes a token useless at once
    #[command(after_help = "Examples:\n  muster user revoke 3f9c21aa04be77d1")]
    Revoke {
        /// As `user list` shows it
        token: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Shows all duties and what each grants
    #[command(after_help = "Examples:\n  muster policy show\n  muster policy show --output json")]
    Show,
    /// Says what a duty grants; without grants, the duty ends
    #[command(
        after_help = "Examples:\n  muster policy set web-operator view kill:role=web exec:role=web\n  muster policy set web-operator"
    )]
    Set {
        duty: String,
        /// VERB, VERB:role=ROLE or VERB:framework=ID; verbs are view, run, kill, exec, schedule, manage
        grants: Vec<String>,
    },
    /// Asks whether a user may do something, without doing it; ends with 1 if not
    #[command(
        after_help = "Examples:\n  muster policy test ann kill\n  muster policy test ann kill --role web"
    )]
    Test {
        user: String,
        verb: String,
        /// To tasks and frameworks of this role [default: to the whole cluster]
        #[arg(long)]
        role: Option<String>,
        /// To this framework and its tasks
        #[arg(long, value_name = "ID")]
        framework: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Certificate {
    /// Makes all certificates of a name useless at once, and ends its connections
    #[command(
        after_help = "Examples:\n  muster certificate revoke agent/0199a1c2\n  muster certificate revoke user/ann"
    )]
    Revoke {
        /// agent/ID, user/NAME or member/ID
        name: String,
    },
    /// Lists the names whose certificates were revoked
    #[command(after_help = "Examples:\n  muster certificate list\n  muster certificate list --output json")]
    List,
}
