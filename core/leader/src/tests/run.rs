//! The built-in framework, end to end.

use super::check;
use expect_test::expect;

#[test]
fn tasks_are_placed_through_offers_as_room_comes() {
    check(
        "run t1:cpus=1,mem=64 t2:cpus=1,mem=64 t3:cpus=1,mem=64
         why
         agent a1 cpus=2 mem=1024
         why
         say a1 t1:running:1 t2:running:1
         say a1 t1:finished:2:released
         why
         stop t2",
        expect![[r#"
            > run t1:cpus=1,mem=64 t2:cpus=1,mem=64 t3:cpus=1,mem=64
              user = submitted [t1, t2, t3]
            > why
              t1: no agent answers now
              t2: no agent answers now
              t3: no agent answers now
            > agent a1 cpus=2 mem=1024
              a1#1 < welcome 1 []
              a1#1 < launch [t1 after 0, t2 after 0]
            > why
              t3: needs 1 cpus, agents have none free now
            > say a1 t1:running:1 t2:running:1
              a1#1 < acknowledge [t1 1, t2 1]
            > say a1 t1:finished:2:released
              a1#1 < acknowledge [t1 2]
              a1#1 < launch [t3 after 0]
            > why
            > stop t2
              user = done
              a1#1 < kill t2 10 s
        "#]],
    );
}

#[test]
fn a_task_that_fits_nowhere_says_why_and_can_be_killed() {
    check(
        "agent a1 cpus=2 mem=1024
         run big:cpus=64,mem=64
         run small:cpus=1,mem=64
         why
         stop big
         why
         run wide:cpus=2,mem=64
         why",
        expect![[r#"
            > agent a1 cpus=2 mem=1024
              a1#1 < welcome 1 []
            > run big:cpus=64,mem=64
              user = submitted [big]
            > run small:cpus=1,mem=64
              user = submitted [small]
              a1#1 < launch [small after 0]
            > why
              big: no agent has 64 cpus; the largest has 2
            > stop big
              user = done
            > why
            > run wide:cpus=2,mem=64
              user = submitted [wide]
            > why
              wide: needs 2 cpus, agents have at most 1 free now
        "#]],
    );
}

#[test]
fn run_and_a_remote_framework_have_the_same_rights() {
    check(
        "agent a1 cpus=2 mem=1024
         subscribe f1
         run t1:cpus=2,mem=64
         why
         decline f1 1-1 refuse=100s
         say a1 t1:finished:1:released",
        expect![[r#"
            > agent a1 cpus=2 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=2 mem=1024MiB]
            > run t1:cpus=2,mem=64
              user = submitted [t1]
            > why
              t1: agent a1 would have room, but it is offered to other frameworks now
            > decline f1 1-1 refuse=100s
              f1 = done
              a1#1 < launch [t1 after 0]
            > say a1 t1:finished:1:released
              a1#1 < acknowledge [t1 1]
        "#]],
    );
}

#[test]
fn a_new_leader_goes_on_placing() {
    check(
        "run t1:cpus=1,mem=64
         elect
         agent a1 cpus=2 mem=1024",
        expect![[r#"
            > run t1:cpus=1,mem=64
              user = submitted [t1]
            > elect
            > agent a1 cpus=2 mem=1024
              a1#1 < welcome 1 []
              a1#1 < launch [t1 after 0]
        "#]],
    );
}

/// The demand was 1 before the launch of t1, and is 1 again for t2: it must be said again all the same.
#[test]
fn a_task_that_comes_while_its_like_is_placed_is_placed_too() {
    check(
        "agent a1 cpus=4 mem=1024
         turns
         run t1:cpus=1,mem=64
         run t2:cpus=1,mem=64
         decide
         decide
         decide
         decide",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > turns
            > run t1:cpus=1,mem=64
            > run t2:cpus=1,mem=64
            > decide
              user = submitted [t1]
            > decide
              user = submitted [t2]
            > decide
              a1#1 < launch [t1 after 0]
            > decide
              a1#1 < launch [t2 after 0]
        "#]],
    );
}
