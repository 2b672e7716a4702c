//! Users, duties and revoked certificates: who may do what.

use std::{
    fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path, process::ExitCode,
};

use identity::Request;
use muster_client::operator::{
    CertifyUserRequest, CreateUserTokenRequest, GetPolicyRequest, ListRevokedCertificatesRequest,
    ListUsersRequest, RemoveUserRequest, RevokeCertificatesRequest, RevokeUserTokenRequest, SetDutyRequest,
    SetUserRequest, TestPolicyRequest, UserTokenView,
};
use serde_json::{Value, json};

use super::Context;
use crate::{
    arguments::{
        Format,
        access::{Certificate, Policy, User},
    },
    output::{json_time, print_rows, print_text, show_time},
    report::{Attempted, Failure},
};

pub async fn user(context: &Context, verb: User) -> Result<(), Failure> {
    let connection = &context.connection;
    match verb {
        User::Add { name, duties } => {
            let attempted = format!("add user `{name}`");
            let request = SetUserRequest { user: name, duties };
            let call = connection.call(async |mut operator| operator.set_user(request.clone()).await);
            call.await.attempted(&attempted)?;
        }
        User::List => list_users(context).await?,
        User::Remove { name } => {
            let attempted = format!("remove user `{name}`");
            let request = RemoveUserRequest { user: name };
            let call = connection.call(async |mut operator| operator.remove_user(request.clone()).await);
            call.await.attempted(&attempted)?;
        }
        User::Token { name, ttl } => {
            let request = CreateUserTokenRequest { user: name.clone(), ttl_ms: millis(ttl) };
            let call =
                connection.call(async |mut operator| operator.create_user_token(request.clone()).await);
            let made = call.await.attempted(&format!("make a token for user `{name}`"))?;
            let view = made.token.unwrap_or_default();
            match context.format {
                Format::Json => {
                    let mut json = shown(&view);
                    json["token"] = made.secret.into();
                    print_text(&format!("{json:#}\n"))?;
                }
                Format::Table => {
                    eprintln!("counts until {}; nobody can show it again", show_time(view.expires_at_us));
                    print_text(&format!("{}\n", made.secret))?;
                }
            }
        }
        User::Certificate { name, file, ttl } => certify(context, &name, &file, millis(ttl)).await?,
        User::Revoke { token } => {
            let attempted = format!("revoke token `{token}`");
            let request = RevokeUserTokenRequest { token_id: token };
            let call =
                connection.call(async |mut operator| operator.revoke_user_token(request.clone()).await);
            call.await.attempted(&attempted)?;
        }
    }
    Ok(())
}

async fn list_users(context: &Context) -> Result<(), Failure> {
    let call = context.connection.call(async |mut operator| operator.list_users(ListUsersRequest {}).await);
    let users = call.await.attempted("list users")?.users;
    let mut rows = Vec::new();
    for user in &users {
        let head = [user.user.clone(), user.duties.join(",")];
        if user.tokens.is_empty() {
            rows.push([&head[..], &["-".to_owned(), "-".to_owned()]].concat());
        }
        for token in &user.tokens {
            let until = if token.is_open { show_time(token.expires_at_us) } else { "expired".to_owned() };
            rows.push([&head[..], &[token.token_id.clone(), until]].concat());
        }
    }
    let json = users.iter().map(|user| {
        json!({
            "user": user.user,
            "duties": user.duties,
            "created_at": json_time(user.created_at_us),
            "tokens": user.tokens.iter().map(shown).collect::<Vec<_>>(),
        })
    });
    let json = Value::Array(json.collect());
    print_rows(context.format, &["USER", "DUTIES", "TOKEN", "EXPIRES"], rows, &json)
}

fn shown(token: &UserTokenView) -> Value {
    json!({
        "token_id": token.token_id,
        "created_at": json_time(token.created_at_us),
        "expires_at": json_time(token.expires_at_us),
        "state": if token.is_open { "open" } else { "expired" },
    })
}

/// The key is made here, and the coordinator never sees it.
async fn certify(context: &Context, name: &str, file: &Path, ttl_ms: u64) -> Result<(), Failure> {
    let attempted = format!("make a certificate for user `{name}`");
    let failed = |error: identity::AuthorityError| Failure::new(&attempted, error.to_string());
    let key = Request::make().map_err(failed)?;
    let request =
        CertifyUserRequest { user: name.to_owned(), request: key.to_der().map_err(failed)?.into(), ttl_ms };
    // Before anything is made: it would be of no use.
    let mut out =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).attempted(&attempted)?;
    let call = context.connection.call(async |mut operator| operator.certify_user(request.clone()).await);
    let made = match call.await.attempted(&attempted) {
        Ok(made) => made,
        Err(failure) => {
            // It holds nothing.
            let _ = std::fs::remove_file(file);
            return Err(failure);
        }
    };
    let credential = key.answered(made.certificate.to_vec());
    out.write_all(credential.to_pem().as_bytes()).attempted(&attempted)?;
    out.sync_all().attempted(&attempted)?;
    eprintln!("use it with `--certificate-file {}` or MUSTER_CERTIFICATE_FILE", file.display());
    Ok(())
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub async fn policy(context: &Context, verb: Policy) -> Result<ExitCode, Failure> {
    let connection = &context.connection;
    match verb {
        Policy::Show => {
            let call = connection.call(async |mut operator| operator.get_policy(GetPolicyRequest {}).await);
            let duties = call.await.attempted("show the policy")?.duties;
            let rows = duties.iter().map(|duty| {
                let made_by = if duty.is_built_in { "Muster" } else { "you" };
                vec![duty.duty.clone(), made_by.to_owned(), duty.grants.join(" ")]
            });
            let json = duties.iter().map(
                |duty| json!({ "duty": duty.duty, "is_built_in": duty.is_built_in, "grants": duty.grants }),
            );
            let json = Value::Array(json.collect());
            print_rows(context.format, &["DUTY", "MADE BY", "GRANTS"], rows.collect(), &json)?;
        }
        Policy::Set { duty, grants } => {
            let attempted = format!("set duty `{duty}`");
            let request = SetDutyRequest { duty, grants };
            let call = connection.call(async |mut operator| operator.set_duty(request.clone()).await);
            call.await.attempted(&attempted)?;
        }
        Policy::Test { user, verb, role, framework } => {
            let request = TestPolicyRequest {
                user,
                verb,
                role: role.unwrap_or_default(),
                framework: framework.unwrap_or_default(),
            };
            let call = connection.call(async |mut operator| operator.test_policy(request.clone()).await);
            let verdict = call.await.attempted("test the policy")?;
            let word = if verdict.is_allowed { "allowed" } else { "denied" };
            let why = Some(&verdict.why).filter(|why| !why.is_empty());
            match (context.format, why) {
                (Format::Json, _) => {
                    let json = json!({ "is_allowed": verdict.is_allowed, "why": why });
                    print_text(&format!("{json:#}\n"))?;
                }
                (Format::Table, Some(why)) => print_text(&format!("{word}: {why}\n"))?,
                (Format::Table, None) => print_text(&format!("{word}\n"))?,
            }
            if !verdict.is_allowed {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn certificate(context: &Context, verb: Certificate) -> Result<(), Failure> {
    let connection = &context.connection;
    match verb {
        Certificate::Revoke { name } => {
            let attempted = format!("revoke the certificates of {name}");
            let request = RevokeCertificatesRequest { name };
            let call =
                connection.call(async |mut operator| operator.revoke_certificates(request.clone()).await);
            call.await.attempted(&attempted)?;
        }
        Certificate::List => {
            let request = ListRevokedCertificatesRequest {};
            let call =
                connection.call(async |mut operator| operator.list_revoked_certificates(request).await);
            let revoked = call.await.attempted("list revoked certificates")?.revoked;
            let rows =
                revoked.iter().map(|record| vec![record.name.clone(), show_time(record.revoked_at_us)]);
            let json = revoked
                .iter()
                .map(|record| json!({ "name": record.name, "revoked_at": json_time(record.revoked_at_us) }));
            let json = Value::Array(json.collect());
            print_rows(context.format, &["NAME", "REVOKED"], rows.collect(), &json)?;
        }
    }
    Ok(())
}
