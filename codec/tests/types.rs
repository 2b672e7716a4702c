//! What was written can be read, and what breaks a rule is named.
#![allow(clippy::unwrap_used)]

use codec::{
    Invalid, Within as _, attribute, checked_resources, exit, resources, task_spec, task_state, task_status,
    testing, to_resources, to_task_spec, to_task_status,
};
use proptest::prelude::*;
use proto::types::v1 as wire;

proptest! {
    #[test]
    fn what_was_written_can_be_read(
        given in testing::resources(),
        spec in testing::spec(),
        status in testing::status(),
    ) {
        prop_assert_eq!(resources(to_resources(&given)).unwrap(), given);
        prop_assert_eq!(task_spec(to_task_spec(&spec)).unwrap(), spec);
        prop_assert_eq!(task_status(to_task_status(&status)).unwrap(), status);
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, Invalid>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn an_error_names_the_field_and_the_rule() {
    let ports = |first, last| wire::Resources {
        ports: vec![wire::PortRange { first, last }],
        ..wire::Resources::default()
    };
    let spec = |task_id: &str, resources| wire::TaskSpec {
        task_id: task_id.to_owned(),
        resources: Some(resources),
        ..wire::TaskSpec::default()
    };
    let mut errors = String::new();
    for error in [
        refused(task_spec(spec("", wire::Resources::default()))),
        refused(task_spec(spec("../../etc", wire::Resources::default()))),
        refused(task_spec(spec("a", ports(9, 1)))),
        refused(task_spec(spec("a", ports(0, 70_000)))),
        refused(task_state("state", 99)),
        refused(task_state("state", 1)),
        refused(
            checked_resources(wire::Resources { mem_mib: u64::MAX, ..Default::default() }).within("shape"),
        ),
        refused(exit(wire::Exit { how: Some(wire::exit::How::Code(300)) })),
        refused(attribute(wire::Attribute { name: "a b".to_owned(), value: String::new() })),
    ] {
        errors += &format!("{error}\n");
    }
    expect_test::expect![[r#"
        `task_id` is missing
        `task_id` is no task id: `../../etc`: only A-Z, a-z, 0-9, `.`, `_` and `-` are allowed
        `resources.ports[0]` breaks a rule: port range 9-1 is not valid: ports are 1 to 65535, and the first comes first
        `resources.ports[0]` breaks a rule: port range 0-70000 is not valid: ports are 1 to 65535, and the first comes first
        `state` holds 99, which is no task state known here
        `state` is WAITING, which only the coordinator says of a task
        `shape` is out of bounds: mem (in MiB) of 18446744073709551615 is more than one agent can have (68719476736)
        `code` of 300 is not 0 to 255
        `name` `a b` is not 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`
    "#]].assert_eq(&errors);
}
