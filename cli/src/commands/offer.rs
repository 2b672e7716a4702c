//! Outstanding offers.

use muster_client::operator::ListOffersRequest;
use serde_json::json;

use super::Context;
use crate::{
    arguments::Format,
    output::{json_resources, print_rows, show_resources},
    report::{Attempted, Failure},
};

pub async fn list(context: &Context) -> Result<(), Failure> {
    let answer = context
        .connection
        .call(async |mut operator| operator.list_offers(ListOffersRequest {}).await)
        .await
        .attempted("list offers")?;
    let rows = answer.offers.iter().map(|offer| {
        vec![
            offer.offer_id.clone(),
            offer.framework_id.clone(),
            offer.agent_id.clone(),
            offer.role.clone(),
            show_resources(&offer.resources.clone().unwrap_or_default()),
            format!("{}.{}s", offer.lease_left_ms / 1000, offer.lease_left_ms % 1000 / 100),
        ]
    });
    let offers: Vec<_> = answer
        .offers
        .iter()
        .map(|offer| {
            json!({
                "offer_id": offer.offer_id,
                "framework_id": offer.framework_id,
                "agent_id": offer.agent_id,
                "role": offer.role,
                "resources": json_resources(offer.resources.as_ref()),
                "lease_left_ms": offer.lease_left_ms,
            })
        })
        .collect();
    let json = json!({ "offers": offers, "held_back": answer.held_back });
    print_rows(
        context.format,
        &["OFFER", "FRAMEWORK", "AGENT", "ROLE", "RESOURCES", "LEASE"],
        rows.collect(),
        &json,
    )?;
    if context.format == Format::Table {
        for line in &answer.held_back {
            eprintln!("held back: {line}");
        }
    }
    Ok(())
}
