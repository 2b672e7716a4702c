//! Reports of usage and reads of histories.

use super::check;
use expect_test::expect;

#[test]
fn figures_live_with_their_session() {
    check(
        "agent a1 cpus=4 mem=1024
         report a1 0 host 1000
         report a1 1 t1 5
         changed a1 1 37
         used a1 t1
         used a1 host
         used a2 host
         gone a1
         used a1 t1
         agent a1 cpus=4 mem=1024
         used a1 t1
         changed a1 1 37",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > report a1 0 host 1000
            > report a1 1 t1 5
            > changed a1 1 37
            > used a1 t1
              user = used [Some(42)]
            > used a1 host
              user = used [Some(1000)]
            > used a2 host
              user = used [None]
            > gone a1
              a1#1 closed
            > used a1 t1
              user = used [None]
            > agent a1 cpus=4 mem=1024
              a1#2 < welcome 2 []
            > used a1 t1
              user = used [None]
            > changed a1 1 37
              a1#2 < refused invalid-argument: a report of usage names the number 1, which was not opened; attach again
              a1#2 closed
        "#]],
    );
}

#[test]
fn a_history_comes_from_the_agent_or_its_absence_is_told() {
    check(
        "history a1 t1
         agent a1 cpus=4 mem=1024
         history a1 t1
         points a1 1 3
         points a1 1 3
         history a1 t1
         wait 6s
         history a1 host
         gone a1",
        expect![[r#"
            > history a1 t1
              user = agent-unreachable: can't read the history of usage: agent `a1`, which has it, isn't connected now; try again later
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > history a1 t1
              a1#1 < history 1 Task(TaskId(t1))
            > points a1 1 3
              user = history of 3 points
            > points a1 1 3
            > history a1 t1
              a1#1 < history 2 Task(TaskId(t1))
            > wait 6s
              user = agent-unreachable: can't read the history of usage: agent `a1` did not answer in time; try again
            > history a1 host
              a1#1 < history 3 Host
            > gone a1
              a1#1 closed
              user = agent-unreachable: can't read the history of usage: agent `a1` has just lost its connection; try again
        "#]],
    );
}
