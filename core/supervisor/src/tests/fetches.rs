//! Tasks with files to be fetched before they begin.

use expect_test::expect;

use super::story::check;

#[test]
fn a_task_with_files_begins_when_they_are_there() {
    check(
        "assigned w
         fetched w
         prepared w",
        expect![[r#"
            > assigned w
              write record w: preparing, #1 starting
              report w #1 starting (None: fetching its files (1))
              make sandbox task-w.lfls
              make cgroups task-w.lfls cpus=0.5 mem=64MiB
              register meter task-w.lfls
              fetch task-w.lfls, files: 1
            > fetched w
              spawn task-w.lfls ["sleep", "60"]
            > prepared w
              write record w: releasing 70@9, #1 starting
              register process 70@9 of w
              release w
        "#]],
    );
}

#[test]
fn a_task_whose_file_can_t_be_fetched_fails_with_the_reason() {
    check(
        "assigned w
         fetch-failed w
         emptied w",
        expect![[r#"
            > assigned w
              write record w: preparing, #1 starting
              report w #1 starting (None: fetching its files (1))
              make sandbox task-w.lfls
              make cgroups task-w.lfls cpus=0.5 mem=64MiB
              register meter task-w.lfls
              fetch task-w.lfls, files: 1
            > fetch-failed w
              write record w: ending as failed, #1 starting
              kill all task-w.lfls
            > emptied w
              write record w: ended, #1 starting, #2 failed released
              report w #2 failed released (FetchFailed: can't fetch http://127.0.0.1/a: it is not there)
              unregister meter task-w.lfls
              remove cgroups task-w.lfls
        "#]],
    );
}

#[test]
fn a_kill_ends_the_fetching_at_once() {
    check(
        "assigned w
         kill w
         fetch-failed w
         emptied w",
        expect![[r#"
            > assigned w
              write record w: preparing, #1 starting
              report w #1 starting (None: fetching its files (1))
              make sandbox task-w.lfls
              make cgroups task-w.lfls cpus=0.5 mem=64MiB
              register meter task-w.lfls
              fetch task-w.lfls, files: 1
            > kill w
              write record w: preparing, kill ordered, #1 starting
              cancel fetch task-w.lfls
            > fetch-failed w
              write record w: ending as killed, kill ordered, #1 starting
              kill all task-w.lfls
            > emptied w
              write record w: ended, kill ordered, #1 starting, #2 killed released
              report w #2 killed released (KillRequested: ended because somebody asked for it)
              unregister meter task-w.lfls
              remove cgroups task-w.lfls
        "#]],
    );
}

#[test]
fn a_kill_that_comes_too_late_for_the_fetching_ends_the_task_before_it_begins() {
    check(
        "assigned w
         kill w
         fetched w
         emptied w",
        expect![[r#"
            > assigned w
              write record w: preparing, #1 starting
              report w #1 starting (None: fetching its files (1))
              make sandbox task-w.lfls
              make cgroups task-w.lfls cpus=0.5 mem=64MiB
              register meter task-w.lfls
              fetch task-w.lfls, files: 1
            > kill w
              write record w: preparing, kill ordered, #1 starting
              cancel fetch task-w.lfls
            > fetched w
              write record w: ending as killed, kill ordered, #1 starting
              kill all task-w.lfls
            > emptied w
              write record w: ended, kill ordered, #1 starting, #2 killed released
              report w #2 killed released (KillRequested: ended because somebody asked for it)
              unregister meter task-w.lfls
              remove cgroups task-w.lfls
        "#]],
    );
}
