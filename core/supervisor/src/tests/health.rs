//! What a health check makes of a task: stories, and the judge's laws.

use expect_test::expect;
use model::{Duration, Health, HealthCheck};
use proptest::prelude::*;

use super::{check as health_check, story::check};
use crate::{Judge, KillBudget, Uptime};

#[test]
fn only_changes_are_told() {
    check(
        "assigned t?
         prepared t
         launched t
         failed t
         failed t
         failed t
         passed t
         passed t
         passed t
         failed t
         passed t
         acknowledged t 3
         kill t
         failed t
         exited t code 0",
        expect![[r#"
            > assigned t?
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running unknown
              report t #2 running unknown
              begin checks of t
            > failed t
            > failed t
            > failed t
            > passed t
            > passed t
              write record t: running 70@9, #1 starting, #2 running unknown, #3 running healthy
              report t #3 running healthy
            > passed t
            > failed t
            > passed t
            > acknowledged t 3
            > kill t
              end checks of t
              write record t: running 70@9, kill ordered, #4 killing
              report t #4 killing
              terminate 70@9 of t by TERM
            > failed t
            > exited t code 0
              write record t: ending as killed, kill ordered, #4 killing
              kill all task-t.lfls
        "#]],
    );
}

#[test]
fn an_unhealthy_task_is_killed_within_the_budget() {
    check(
        "assigned t? u?
         prepared t
         launched t
         prepared u
         launched u
         + 10
         failed t
         failed t
         failed t
         exited t signal 15
         emptied t
         failed u
         failed u
         failed u
         failed u
         + 50
         failed u
         + 10
         failed u",
        expect![[r#"
            > assigned t? u?
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
              write record u: preparing, #1 starting
              report u #1 starting
              make sandbox task-u.lfls
              make cgroups task-u.lfls cpus=0.5 mem=64MiB
              register meter task-u.lfls
              spawn task-u.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running unknown
              report t #2 running unknown
              begin checks of t
            > prepared u
              write record u: releasing 70@9, #1 starting
              register process 70@9 of u
              release u
            > launched u
              write record u: running 70@9, #1 starting, #2 running unknown
              report u #2 running unknown
              begin checks of u
            > + 10
            > failed t
            > failed t
            > failed t
              write record t: running 70@9, #1 starting, #2 running unknown, #3 running unhealthy
              report t #3 running unhealthy (None: its health check failed 3 times in a row: connection refused)
              end checks of t
              write record t: running 70@9, kill unhealthy, #1 starting, #2 running unknown, #3 running unhealthy, #4 killing
              report t #4 killing (Unhealthy: its health check failed 3 times in a row: connection refused)
              terminate 70@9 of t by TERM
            > exited t signal 15
              write record t: ending as failed, kill unhealthy, #1 starting, #2 running unknown, #3 running unhealthy, #4 killing
              kill all task-t.lfls
            > emptied t
              write record t: ended, kill unhealthy, #1 starting, #2 running unknown, #3 running unhealthy, #4 killing, #5 failed released
              report t #5 failed signal 15 released (Unhealthy: ended because its health check failed 3 times in a row)
              unregister meter task-t.lfls
              unregister process 70@9 of t
              remove cgroups task-t.lfls
            > failed u
            > failed u
            > failed u
              write record u: running 70@9, #1 starting, #2 running unknown, #3 running unhealthy
              report u #3 running unhealthy (None: its health check failed 3 times in a row: connection refused)
              spare u
            > failed u
            > + 50
            > failed u
            > + 10
            > failed u
              end checks of u
              write record u: running 70@9, kill unhealthy, #1 starting, #2 running unknown, #3 running unhealthy, #4 killing
              report u #4 killing (Unhealthy: its health check failed 3 times in a row: connection refused)
              terminate 70@9 of u by TERM
        "#]],
    );
}

#[test]
fn a_restart_goes_on_with_what_was_told() {
    check(
        "assigned t?
         prepared t
         launched t
         passed t
         passed t
         failed t
         failed t
         restart
         passed t
         launched t
         passed t
         failed t
         failed t
         passed t",
        expect![[r#"
            > assigned t?
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running unknown
              report t #2 running unknown
              begin checks of t
            > passed t
            > passed t
              write record t: running 70@9, #1 starting, #2 running unknown, #3 running healthy
              report t #3 running healthy
            > failed t
            > failed t
            > restart
              adopt 70@9 of t
            > passed t
            > launched t
              begin checks of t
            > passed t
            > failed t
            > failed t
            > passed t
        "#]],
    );
}

#[test]
fn changes_that_nobody_heard_of_are_told_as_one() {
    check(
        "assigned t?
         prepared t
         launched t
         + 60
         passed t
         passed t
         restart
         launched t
         passed t
         welcomed t#1",
        expect![[r#"
            > assigned t?
              write record t: preparing, #1 starting
              report t #1 starting
              make sandbox task-t.lfls
              make cgroups task-t.lfls cpus=0.5 mem=64MiB
              register meter task-t.lfls
              spawn task-t.lfls ["sleep", "60"]
            > prepared t
              write record t: releasing 70@9, #1 starting
              register process 70@9 of t
              release t
            > launched t
              write record t: running 70@9, #1 starting, #2 running unknown
              report t #2 running unknown
              begin checks of t
            > + 60
            > passed t
            > passed t
              write record t: running 70@9, #1 starting, #2 running unknown, #3 running healthy
              report t #3 running healthy
            > restart
              adopt 70@9 of t
            > launched t
              begin checks of t
            > passed t
            > welcomed t#1
              report t #2 running unknown
              report t #3 running healthy
        "#]],
    );
}

proptest! {
    /// A judge that forgets nothing, beside the one that keeps a count.
    #[test]
    fn the_judge_keeps_to_its_thresholds(
        answers in proptest::collection::vec((any::<bool>(), 0u64..30), 0..60),
        failures_max in 1u32..4,
        successes_min in 1u32..4,
    ) {
        let check = HealthCheck { failures_max, successes_min, ..health_check() };
        let mut judge = Judge::new(Health::Unknown);
        let mut counted: Vec<bool> = Vec::new();
        let mut told = Health::Unknown;
        for (is_passed, seconds) in answers {
            let age = Duration::from_secs(seconds);
            let change = judge.hear(&check, age, is_passed);
            if is_passed || age >= check.start_period || counted.contains(&true) {
                counted.push(is_passed);
            }
            let in_a_row = |what: bool| counted.iter().rev().take_while(|answer| **answer == what).count();
            let health = if in_a_row(true) >= successes_min as usize {
                Health::Healthy
            } else if in_a_row(false) >= failures_max as usize {
                Health::Unhealthy
            } else {
                told
            };
            prop_assert_eq!(change, (health != told).then_some(health));
            told = health;
            prop_assert_eq!(judge.health(), told);
        }
    }

    /// In no window are there more kills than the budget has, and none is refused that it has.
    #[test]
    fn the_budget_holds_in_every_window(gaps in proptest::collection::vec(0u64..20, 0..80), kills_max in 0u32..5) {
        let window = Duration::from_secs(30);
        let mut budget = KillBudget::new(kills_max, window);
        let mut now = Uptime(Duration::from_secs(100));
        let mut taken: Vec<Uptime> = Vec::new();
        for gap in gaps {
            now = now + Duration::from_secs(gap);
            let recent = taken.iter().filter(|at| now.since(**at) < window).count();
            let is_taken = budget.take(now);
            prop_assert_eq!(is_taken, recent < kills_max as usize);
            if is_taken {
                taken.push(now);
            }
        }
    }
}
