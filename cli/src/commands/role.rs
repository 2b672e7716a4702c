//! Roles: named shares of the cluster.

use muster_client::{
    new_request_id,
    operator::{ListRolesRequest, SetRoleRequest},
};
use serde_json::{Value, json};

use super::Context;
use crate::{
    output::{json_resources, print_rows, show_resources},
    report::{Attempted, Failure},
    units::show_thousandths,
};

pub async fn list(context: &Context) -> Result<(), Failure> {
    let roles = context
        .connection
        .call(async |mut operator| operator.list_roles(ListRolesRequest {}).await)
        .await
        .attempted("list roles")?
        .roles;
    let rows = roles.iter().map(|role| {
        vec![
            role.role.clone(),
            show_thousandths(role.weight_milli),
            role.frameworks.to_string(),
            show_resources(&role.allocated.clone().unwrap_or_default()),
        ]
    });
    let json = roles.iter().map(|role| {
        json!({
            "role": role.role,
            "weight_milli": role.weight_milli,
            "frameworks": role.frameworks,
            "allocated": json_resources(role.allocated.as_ref()),
        })
    });
    let json = Value::Array(json.collect());
    print_rows(context.format, &["ROLE", "WEIGHT", "FRAMEWORKS", "ALLOCATED"], rows.collect(), &json)
}

pub async fn set(context: &Context, role: String, weight_milli: u64) -> Result<(), Failure> {
    let attempted = format!("set the weight of role `{role}`");
    let request = SetRoleRequest { request_id: new_request_id(), role, weight_milli };
    context
        .connection
        .call(async |mut operator| operator.set_role(request.clone()).await)
        .await
        .attempted(&attempted)?;
    Ok(())
}
