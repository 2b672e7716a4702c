//! Resources and attributes.

use std::collections::BTreeMap;

use model::{Amounts, Attribute, Attributes, PortRange, PortRanges, Resources, ScalarName, limits};
use proto::types::v1 as wire;

use crate::{Invalid, at_most, id, shown, text};

pub fn resources(resources: wire::Resources) -> Result<Resources, Invalid> {
    let wire::Resources { cpus_milli, mem_mib, disk_mib, gpus, ports, scalars } = resources;
    at_most("ports", ports.len(), limits::PORT_RANGES_MAX)?;
    at_most("scalars", scalars.len(), limits::SCALARS_MAX)?;
    let mut ranges = Vec::with_capacity(ports.len());
    for (place, range) in ports.into_iter().enumerate() {
        let wire::PortRange { first, last } = range;
        let range = PortRange::new(first, last).map_err(|error| {
            Invalid::new(&format!("ports[{place}]"), format_args!("breaks a rule: {error}"))
        })?;
        ranges.push(range);
    }
    let ports = PortRanges::new(ranges)
        .map_err(|error| Invalid::new("ports", format_args!("breaks a rule: {error}")))?;
    let mut named = BTreeMap::new();
    for (name, amount) in scalars {
        let name: ScalarName = id("scalars", &name)?;
        // In the model, a name that stands for nothing doesn't stand there.
        if amount > 0 {
            named.insert(name, amount);
        }
    }
    Ok(Resources { cpus_milli, mem_mib, disk_mib, gpus, ports, scalars: named })
}

/// Resources that the API takes: within the bounds that keep every sum exact.
pub fn checked_resources(given: wire::Resources) -> Result<Resources, Invalid> {
    let resources = resources(given)?;
    resources.check().map_err(|error| Invalid::new("", format_args!("is out of bounds: {error}")))?;
    Ok(resources)
}

pub fn to_resources(resources: &Resources) -> wire::Resources {
    let Resources { cpus_milli, mem_mib, disk_mib, gpus, ports, scalars } = resources;
    let ports = ports
        .ranges()
        .iter()
        .map(|range| wire::PortRange { first: range.first().into(), last: range.last().into() })
        .collect();
    wire::Resources {
        cpus_milli: *cpus_milli,
        mem_mib: *mem_mib,
        disk_mib: *disk_mib,
        gpus: *gpus,
        ports,
        scalars: to_scalars(scalars),
    }
}

/// Sums over agents, in the shape of resources; ports have no sum.
pub fn to_amounts(amounts: &Amounts) -> wire::Resources {
    let Amounts { cpus_milli, mem_mib, disk_mib, gpus, scalars } = amounts;
    wire::Resources {
        cpus_milli: *cpus_milli,
        mem_mib: *mem_mib,
        disk_mib: *disk_mib,
        // A cluster with more devices than this could not be shown right; it can't be built either.
        gpus: u32::try_from(*gpus).unwrap_or(u32::MAX),
        ports: Vec::new(),
        scalars: to_scalars(scalars),
    }
}

fn to_scalars(scalars: &BTreeMap<ScalarName, u64>) -> BTreeMap<String, u64> {
    scalars.iter().map(|(name, amount)| (name.to_string(), *amount)).collect()
}

pub fn attribute(attribute: wire::Attribute) -> Result<Attribute, Invalid> {
    let wire::Attribute { name, value } = attribute;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > limits::NAME_BYTES_MAX || !name.bytes().all(is_name) {
        return Err(Invalid::new(
            "name",
            format_args!("`{}` is not 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`", shown(&name)),
        ));
    }
    Ok(Attribute { name, value: text("value", value, limits::VALUE_BYTES_MAX)? })
}

pub fn attributes(field: &str, given: Vec<wire::Attribute>) -> Result<Attributes, Invalid> {
    at_most(field, given.len(), limits::ATTRIBUTES_MAX)?;
    let mut attributes = Attributes::new();
    for Attribute { name, value } in super::each(field, given, attribute)? {
        if attributes.contains_key(&name) {
            return Err(Invalid::new(field, format_args!("names `{name}` twice")));
        }
        attributes.insert(name, value);
    }
    Ok(attributes)
}

pub fn to_attributes(attributes: &Attributes) -> Vec<wire::Attribute> {
    attributes
        .iter()
        .map(|(name, value)| wire::Attribute { name: name.clone(), value: value.clone() })
        .collect()
}
