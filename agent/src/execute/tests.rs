//! The interpreter against a kernel in memory.

#![allow(clippy::print_stdout, reason = "a skipped test says so")]

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _};

use expect_test::expect;
use model::{AgentId, Duration, FrameworkId, ProcessSpec, Resources, TaskSpec};
use supervisor::{Assignment, Confidence, Supervisor};

use super::*;
use crate::metrics::FetchMetrics;
use crate::sys::{
    Figures, GroupRecord, MemberEnd,
    fake::{Call, FakeSys},
};

struct World {
    sys: FakeSys,
    executor: Executor,
    supervisor: Supervisor,
    folder: tempfile::TempDir,
}

fn settings() -> Settings {
    Settings {
        default_user: "nobody".to_owned(),
        users: UserPolicy::default(),
        pids_limit: 100,
        hidden: Vec::new(),
        output_bytes_max: 10,
        memory_mib: 1000,
        rights: Rights::default(),
        port_policy: Default::default(),
    }
}

pub(crate) fn fetcher(sys: &FakeSys) -> Fetcher {
    Fetcher::new(Arc::new(sys.clone()), None, fetch::Settings::default(), FetchMetrics::default())
}

/// `None` where sandboxes can't be given to another user; said aloud.
fn world() -> Option<World> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root to give sandboxes to other users");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let sys = FakeSys::new();
    let checkpoint = Arc::new(Checkpoint::open(folder.path()).unwrap());
    let directories = Directories::new(folder.path());
    fs::create_dir(directories.tasks()).unwrap();
    let executor =
        Executor::new(Arc::new(sys.clone()), None, checkpoint, directories, settings(), fetcher(&sys));
    let supervisor = Supervisor::new(AgentId::new("a1").unwrap());
    Some(World { sys, executor, supervisor, folder })
}

fn assignment(user: Option<&str>) -> Assignment {
    let spec = TaskSpec {
        name: String::new(),
        env: BTreeMap::from([("HOME".to_owned(), "/mine".to_owned())]),
        user: user.map(str::to_owned),
        cwd: Some("work".to_owned()),
        cpu_limit_milli: Some(700),
        kill_grace: Duration::from_secs(1),
        ..TaskSpec::new(
            TaskId::new("t").unwrap(),
            Resources { cpus_milli: 500, mem_mib: 64, ..Resources::default() },
            vec!["sleep".to_owned(), "60".to_owned()],
        )
    };
    let framework_id = FrameworkId::new("run").unwrap();
    Assignment { framework_id, spec: Arc::new(spec), kill: None, recorded_sequence: 0 }
}

impl World {
    /// Feeds an event and does everything that follows, until nothing does. Answers what was reported.
    fn play(&mut self, event: Event) -> Vec<String> {
        let mut told = Vec::new();
        let mut events = vec![event];
        while !events.is_empty() {
            let event = events.remove(0);
            let actions = self.supervisor.handle(event, clock::moment());
            let (now, plan): (Vec<_>, Vec<_>) = actions.into_iter().partition(Action::is_immediate);
            for action in &now {
                match action {
                    Action::Report(_) => told.push(action.to_string()),
                    _ => drop(self.executor.execute_plan(std::slice::from_ref(action))),
                }
            }
            for outcome in self.executor.execute_plan(&plan) {
                match outcome {
                    Outcome::Event(event) => events.push(event),
                    Outcome::Process { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        told
    }

    fn launch(&mut self, user: Option<&str>) -> Vec<String> {
        self.play(Event::Assigned { assignments: vec![assignment(user)] })
    }

    fn spec(&self) -> Arc<TaskSpec> {
        assignment(None).spec
    }

    fn attempt(&self) -> String {
        self.supervisor.rows().next().unwrap().attempt.clone()
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.sys.list_cgroups().unwrap(), []);
        assert_eq!(self.sys.running(), []);
        assert_eq!(fs::read_dir(self.folder.path().join("tasks")).unwrap().count(), 0);
        let state = self.executor.lock();
        assert!(state.held.is_empty() && state.processes.is_empty());
    }
}

#[test]
fn a_task_runs_in_its_own_sandbox_and_leaves_only_that() {
    let Some(mut world) = world() else { return };
    let told = world.launch(None);
    expect![[r#"
        report t #1 starting
        report t #2 running"#]]
    .assert_eq(&told.join("\n"));
    let (cgroup, process) = world.sys.running().remove(0);
    let limits = world.sys.limits(&cgroup).unwrap();
    assert_eq!((limits.cpu_quota_milli, limits.cpu_weight_milli), (700, 500));
    assert_eq!((limits.memory_bytes, limits.pids_max), (64 << 20, 100));
    let sandbox = world.executor.directories().sandbox(&world.attempt());
    let data = fs::metadata(&sandbox).unwrap();
    assert_eq!((data.uid(), data.mode() & 0o777), (65534, 0o755));

    world.sys.end(process, Exit::Code(3));
    world.sys.set_figures(&cgroup, Figures { cpu_usage_ns: Some(7), ..Figures::default() });
    let held = world.executor.lock().processes.values().next().unwrap().clone();
    let outcome = world.executor.collect_exit(&TaskId::new("t").unwrap(), &world.attempt(), &held);
    let Outcome::Event(event) = outcome else { panic!("{outcome:?}") };
    let told = world.play(event);
    expect!["report t #3 failed code 3 released (CommandExited: exited with code 3)"]
        .assert_eq(&told.join("\n"));
    assert_eq!(
        world
            .supervisor
            .rows()
            .next()
            .unwrap()
            .statuses
            .last()
            .unwrap()
            .usage
            .as_ref()
            .unwrap()
            .get(model::Figure::CpuNs),
        Some(7)
    );
    assert!(sandbox.is_dir());
    assert_eq!(world.sys.list_cgroups().unwrap(), []);
}

#[test]
fn a_failure_at_any_step_leaves_nothing_and_is_told() {
    let mut told = String::new();
    for (call, errno) in [
        (Call::ResolveUser, libc::EIO),
        (Call::CreateCgroup, libc::ENOSPC),
        (Call::Spawn, libc::EAGAIN),
        (Call::Release, libc::ENOENT),
    ] {
        let Some(mut world) = world() else { return };
        world.sys.fail_next(call, errno);
        let lines = world.launch(None).join("\n").replace(&world.attempt(), "ATTEMPT");
        told += &format!("{call:?}\n{lines}\n");
        if call == Call::Release {
            // It got as far as a sandbox that may hold output.
            let sandboxes = world.executor.directories().tasks();
            fs::remove_dir_all(world.executor.directories().attempt(&world.attempt())).unwrap();
            assert_eq!(fs::read_dir(sandboxes).unwrap().count(), 0);
        }
        world.assert_nothing_left();
    }
    expect![[r#"
        ResolveUser
        report t #1 starting
        report t #2 failed released (LaunchFailed: can't look up the user `nobody`: Input/output error (os error 5))
        CreateCgroup
        report t #1 starting
        report t #2 failed released (LaunchFailed: can't use the task's cgroup: can't make the control group /fake/ATTEMPT: No space left on device (os error 28))
        Spawn
        report t #1 starting
        report t #2 failed released (LaunchFailed: can't start the task's process: can't start a process in the control group ATTEMPT: Resource temporarily unavailable (os error 11))
        Release
        report t #1 starting
        report t #2 failed released (CommandNotExecutable: can't run `sleep`: No such file or directory (os error 2))
    "#]].assert_eq(&told);
}

#[test]
fn a_user_that_may_not_be_used_is_refused_before_anything_is_made() {
    let mut told = String::new();
    for user in ["root", "0", "bob"] {
        let Some(mut world) = world() else { return };
        told += &format!("{}\n", world.launch(Some(user)).join("\n"));
        world.assert_nothing_left();
    }
    expect![[r#"
        report t #1 starting
        report t #2 failed released (UserRefused: a task may not run as `root` here)
        report t #1 starting
        report t #2 failed released (UserRefused: a task may not run as `root` here)
        report t #1 starting
        report t #2 failed released (UserRefused: this host has no user `bob`)
    "#]]
    .assert_eq(&told);
}

#[test]
fn an_undo_that_fails_is_left_for_the_sweeper() {
    let Some(mut world) = world() else { return };
    world.sys.fail_next(Call::Spawn, libc::EAGAIN);
    world.sys.fail_next(Call::RemoveCgroup, libc::EBUSY);
    let told = world.launch(None);
    assert!(told.last().unwrap().contains("failed released"), "{told:?}");
    assert_eq!(world.sys.list_cgroups().unwrap().len(), 1);
    let attempt = world.attempt();
    world.executor.execute_plan(&[Action::RemoveStrayCgroups { attempt }]);
    world.assert_nothing_left();
}

#[test]
fn what_ended_while_nobody_looked_is_told_by_its_record() {
    let Some(mut world) = world() else { return };
    world.launch(None);
    let (_, id) = world.sys.running().remove(0);
    world.sys.end(id, Exit::Code(5));
    let (task_id, attempt) = (TaskId::new("t").unwrap(), world.attempt());
    let adopt = Action::Adopt {
        task_id,
        attempt,
        process: process_id(id),
        confidence: Confidence::ToldByInit,
        spec: world.spec(),
    };
    let outcome = world.executor.execute_plan(&[adopt]).remove(0);
    let Outcome::Event(Event::Exited { exit, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(exit, Some(Exit::Code(5)));
}

#[test]
fn what_its_agent_never_let_go_has_never_begun() {
    let Some(mut world) = world() else { return };
    world.launch(None);
    let (_, id) = world.sys.running().remove(0);
    world.sys.end_unrecorded(id);
    // An attempt whose init never wrote a word.
    let (task_id, attempt) = (TaskId::new("t").unwrap(), "task-t.other".to_owned());
    let adopt = Action::Adopt {
        task_id,
        attempt,
        process: process_id(id),
        confidence: Confidence::ToldByInit,
        spec: world.spec(),
    };
    let outcome = world.executor.execute_plan(&[adopt]).remove(0);
    assert!(matches!(outcome, Outcome::Event(Event::NeverBegun { .. })), "{outcome:?}");
}

#[test]
fn what_ended_without_a_record_is_unknown() {
    let Some(mut world) = world() else { return };
    world.launch(None);
    let (_, id) = world.sys.running().remove(0);
    world.sys.end_unrecorded(id);
    let (task_id, attempt) = (TaskId::new("t").unwrap(), world.attempt());
    let adopt = Action::Adopt {
        task_id,
        attempt,
        process: process_id(id),
        confidence: Confidence::Confirmed,
        spec: world.spec(),
    };
    let outcome = world.executor.execute_plan(&[adopt]).remove(0);
    let Outcome::Event(Event::Exited { exit, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(exit, None);
}

#[test]
fn a_process_that_cannot_be_reached_is_looked_for_again() {
    let Some(mut world) = world() else { return };
    world.launch(None);
    let (_, id) = world.sys.running().remove(0);
    world.sys.fail_next(Call::Reopen, libc::EMFILE);
    let (task_id, attempt) = (TaskId::new("t").unwrap(), world.attempt());
    let adopt = Action::Adopt {
        task_id,
        attempt,
        process: process_id(id),
        confidence: Confidence::Confirmed,
        spec: world.spec(),
    };
    let outcomes = world.executor.execute_plan(std::slice::from_ref(&adopt));
    assert!(matches!(outcomes.as_slice(), [Outcome::Later(again)] if *again == adopt), "{outcomes:?}");
}

#[test]
fn a_code_of_zero_is_not_believed_of_a_process_that_may_have_waited() {
    let Some(mut world) = world() else { return };
    world.launch(None);
    let (_, id) = world.sys.running().remove(0);
    let (task_id, attempt) = (TaskId::new("t").unwrap(), world.attempt());
    let adopt = Action::Adopt {
        task_id,
        attempt,
        process: process_id(id),
        confidence: Confidence::Doubtful,
        spec: world.spec(),
    };
    let outcomes = world.executor.execute_plan(&[adopt]);
    let [_, Outcome::Process { task_id, process }] = outcomes.as_slice() else { panic!("{outcomes:?}") };
    let exit_of = |told| match world.executor.exited(task_id, &world.attempt(), id_of(process), told) {
        Outcome::Event(Event::Exited { exit, .. }) => exit,
        other => panic!("{other:?}"),
    };
    assert_eq!(exit_of(Some(Exit::Code(0))), None);
    assert_eq!(exit_of(Some(Exit::Code(3))), Some(Exit::Code(3)));
}

#[test]
fn a_process_that_never_began_is_told_as_such() {
    let Some(mut world) = world() else { return };
    // Prepared and never released.
    let told =
        world.supervisor.handle(Event::Assigned { assignments: vec![assignment(None)] }, clock::moment());
    let plan: Vec<Action> = told.into_iter().filter(|action| !action.is_immediate()).collect();
    let outcome = world.executor.execute_plan(&plan).remove(0);
    let Outcome::Event(Event::Prepared { task_id, process }) = outcome else { panic!("{outcome:?}") };
    let adopt = Action::Adopt {
        task_id,
        attempt: world.attempt(),
        process,
        confidence: Confidence::ToldByInit,
        spec: world.spec(),
    };
    // While it lives it may be about to begin.
    let outcomes = world.executor.execute_plan(std::slice::from_ref(&adopt));
    assert!(matches!(outcomes.as_slice(), [Outcome::Later(_)]), "{outcomes:?}");
    world.executor.lock().held.clear();
    let outcomes = world.executor.execute_plan(&[adopt]);
    assert!(matches!(outcomes.as_slice(), [Outcome::Event(Event::NeverBegun { .. })]), "{outcomes:?}");
}

fn id_of(process: &Process) -> ProcessId {
    process_id(process.id())
}

#[test]
fn a_specs_variables_win_over_ours() {
    let Some(mut world) = world() else { return };
    world.launch(None);
    let assignment = assignment(None);
    let request = world.executor.launch_request("task-t.1", &assignment.spec).unwrap();
    let shown: Vec<String> = request
        .env
        .iter()
        .map(|(name, value)| format!("{}={}", name.display(), value.display()))
        .map(|line| line.replace(&world.folder.path().display().to_string(), "DATA"))
        .collect();
    expect![[r#"
        HOME=/mine
        LOGNAME=nobody
        MUSTER_SANDBOX=DATA/tasks/task-t.1/sandbox
        MUSTER_TASK_ID=t
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        USER=nobody"#]]
    .assert_eq(&shown.join("\n"));
    assert!(request.cwd.ends_with("tasks/task-t.1/sandbox/work"));
}

#[test]
fn the_end_of_a_group_is_told_by_the_names_of_its_processes() {
    let Some(mut world) = world() else { return };
    let plain = assignment(None);
    let process = |name: &str| ProcessSpec::new(name, vec!["run".to_owned()]);
    let log = ProcessSpec { is_essential: false, mem_limit_mib: Some(16), ..process("log") };
    let processes = vec![process("web"), log];
    let spec = TaskSpec { command: Vec::new(), processes, ..(*plain.spec).clone() };
    let spec = Arc::new(spec);
    world.play(Event::Assigned { assignments: vec![Assignment { spec: spec.clone(), ..plain }] });
    let (cgroup, process) = world.sys.running().remove(0);
    let members = world.sys.limits(&cgroup).unwrap().members;
    assert_eq!((members[0].memory_bytes, members[1].memory_bytes), (None, Some(16 << 20)));
    let request = world.executor.launch_request("task-t.1", &spec).unwrap();
    let log = &request.group.unwrap().members[1];
    assert!(log.stdout.ends_with("task-t.1/stdout.log") && !log.is_essential);
    assert!(log.env.contains(&("MUSTER_PROCESS".into(), "log".into())));

    let task_id = TaskId::new("t").unwrap();
    let attempt = world.attempt();
    let exit_file = world.executor.directories().exit_file(&attempt);
    let end = |code| Some(MemberEnd { exit: Exit::Code(code), is_own: true });
    world.sys.record_group(&exit_file, GroupRecord { decisive: None, ends: vec![None, end(4)] });
    let processes = world.executor.ends(&task_id, &attempt);
    let told = world.play(Event::ProcessesEnded { task_id: task_id.clone(), processes });
    expect!["report t #3 running (None: the process `log` exited with code 4)"].assert_eq(&told.join("\n"));

    world.sys.record_group(&exit_file, GroupRecord { decisive: Some(0), ends: vec![end(3), end(4)] });
    world.sys.end(process, Exit::Code(3));
    let held = world.executor.lock().processes.values().next().unwrap().clone();
    let Outcome::Event(event) = world.executor.collect_exit(&task_id, &attempt, &held) else { panic!() };
    let told = world.play(event);
    expect!["report t #4 failed code 3 released (CommandExited: the process `web` exited with code 3; the process `log` exited with code 4)"]
        .assert_eq(&told.join("\n"));
    assert_eq!(world.executor.group_of(&task_id), None);
}
