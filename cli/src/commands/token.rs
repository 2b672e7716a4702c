//! Join tokens: what lets agents and coordinators on other machines into the cluster.

use std::time::Duration;

use muster_client::operator::{
    CreateJoinTokenRequest, JoinKind, JoinTokenView, ListJoinTokensRequest, RevokeJoinTokenRequest,
};
use serde_json::{Value, json};

use super::Context;
use crate::{
    arguments::{Format, Joiner},
    output::{json_time, print_rows, print_text, show_time},
    report::{Attempted, Failure},
};

pub async fn create(
    context: &Context,
    joiner: Joiner,
    ttl: Duration,
    only_for: Option<String>,
) -> Result<(), Failure> {
    let attempted = "make a join token";
    let kind = match joiner {
        Joiner::Agent => JoinKind::Agent,
        Joiner::Member => JoinKind::Member,
    };
    let request = CreateJoinTokenRequest {
        kind: kind.into(),
        ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        only_for: only_for.unwrap_or_default(),
    };
    let made = context
        .connection
        .call(async |mut operator| operator.create_join_token(request.clone()).await)
        .await
        .attempted(attempted)?;
    let view = made.token.unwrap_or_default();
    match context.format {
        Format::Json => {
            let mut json = shown(&view);
            json["token"] = made.secret.into();
            print_text(&format!("{json:#}\n"))
        }
        Format::Table => {
            let who = who(&view);
            eprintln!(
                "lets {who} in, once, until {}; nobody can show it again",
                show_time(view.expires_at_us)
            );
            print_text(&format!("{}\n", made.secret))
        }
    }
}

pub async fn list(context: &Context) -> Result<(), Failure> {
    let tokens = context
        .connection
        .call(async |mut operator| operator.list_join_tokens(ListJoinTokensRequest {}).await)
        .await
        .attempted("list join tokens")?
        .tokens;
    let rows = tokens.iter().map(|token| {
        vec![
            token.token_id.clone(),
            who(token),
            state(token).to_owned(),
            if token.used_by.is_empty() { "-".to_owned() } else { token.used_by.clone() },
            show_time(token.expires_at_us),
        ]
    });
    let json = Value::Array(tokens.iter().map(shown).collect());
    print_rows(context.format, &["TOKEN", "FOR", "STATE", "USED BY", "EXPIRES"], rows.collect(), &json)
}

pub async fn revoke(context: &Context, id: String) -> Result<(), Failure> {
    let request = RevokeJoinTokenRequest { token_id: id.clone() };
    context
        .connection
        .call(async |mut operator| operator.revoke_join_token(request.clone()).await)
        .await
        .attempted(&format!("revoke join token `{id}`"))?;
    Ok(())
}

fn who(token: &JoinTokenView) -> String {
    let kind = kind(token);
    match &*token.only_for {
        "" => format!("any {kind}"),
        id => format!("{kind} {id}"),
    }
}

fn kind(token: &JoinTokenView) -> &'static str {
    match token.kind() {
        JoinKind::Agent => "agent",
        JoinKind::Member => "member",
        JoinKind::Unspecified => "unknown",
    }
}

fn state(token: &JoinTokenView) -> &'static str {
    match (token.is_open, token.is_revoked, token.used_by.is_empty()) {
        (true, _, _) => "open",
        (false, true, _) => "revoked",
        (false, false, false) => "used",
        (false, false, true) => "expired",
    }
}

fn shown(token: &JoinTokenView) -> Value {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "token_id": token.token_id,
        "kind": kind(token),
        "only_for": text(&token.only_for),
        "state": state(token),
        "used_by": text(&token.used_by),
        "created_at": json_time(token.created_at_us),
        "expires_at": json_time(token.expires_at_us),
        "used_at": (token.used_at_us != 0).then(|| json_time(token.used_at_us)),
    })
}
