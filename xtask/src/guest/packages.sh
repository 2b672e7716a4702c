#!/bin/sh
# The life of our packages on a clean Debian: installed, upgraded, removed and installed again, around a
# task that notices nothing. Run by systemd as the machine's only business; all that it prints is kept.
# Lines that start with @muster are for the one who booted us.
exec 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 HOME=/root
packages=/packages
group=/sys/fs/cgroup/muster.slice/muster-tasks.slice/muster-tasks.scope/tasks
failed=0

# Shows a command and does it.
show() {
    echo "\$ $*"
    "$@"
}

refuse() {
    echo "FAILED: $*"
    return 1
}

# Waits until a command succeeds; emulation is slow, and none of this is about speed.
await() {
    tries=600
    until "$@" > /dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || refuse "it never came true: $*"
        sleep 0.5
    done
}

step() {
    echo "@muster begin $1"
    (set -e; "$1")
    code=$?
    if [ "$code" != 0 ]; then
        failed=1
        journalctl --no-pager --lines 80 --output cat
        systemctl --no-pager status muster-agent muster-coordinator muster-tasks.scope
    fi
    echo "@muster end $1 $code"
}

is_active() { systemctl is-active --quiet "$1"; }
is_not_active() { ! is_active "$1"; }

# The moment of a process's start: a pid alone may be another process. Nothing when it is gone.
started() { cut -d ' ' -f 22 "/proc/$1/stat" 2> /dev/null; }

# The ticker's shell and its init stay; the `sleep` below them comes and goes.
remember() {
    for pid in $(find "$group" -name cgroup.procs -exec cat {} + | sort -n); do
        case $(cat "/proc/$pid/comm" 2> /dev/null) in
            muster-init | sh) echo "$pid $(started "$pid")" ;;
        esac
    done > /run/task-processes
    cat /run/task-processes
    [ "$(wc -l < /run/task-processes)" = 2 ] || refuse "the task has other processes than its init and its shell"
}

output() { find /var/lib/muster/agent/tasks -path '*ticker*' -name stdout; }
has_ticked() { grep -q tick "$(output)"; }
has_grown_beyond() { [ "$(stat -c %s "$(output)")" -gt "$1" ]; }

# The same processes, and their output goes on.
is_undisturbed() {
    while read -r pid start; do
        [ "$(started "$pid")" = "$start" ] || refuse "process $pid is gone"
    done < /run/task-processes
    size=$(stat -c %s "$(output)")
    await has_grown_beyond "$size"
    # What systemd rewrites first when it takes a group back.
    limit=$(cat "$group"/*/memory.max)
    [ "$limit" = 67108864 ] || refuse "the task's memory limit is $limit"
    echo "undisturbed: $(tr '\n' ';' < /run/task-processes) $(tail -n 1 "$(output)")"
}

task_runs() { muster task list --live | grep -q -i running; }
agent_is_there() { muster agent list --output json | grep -q '"agent_id"'; }

install() {
    show apt-get install --quiet --yes "$packages"/1/*.deb
    show dpkg --verify muster muster-agent muster-coordinator
    for unit in muster-agent muster-coordinator; do
        [ "$(systemctl is-enabled $unit)" = enabled ] || refuse "$unit is not enabled"
        is_not_active $unit || refuse "$unit was started"
    done
    [ "$(tail -n +2 /proc/net/tcp | wc -l)" = 0 ] || refuse "somebody listens"
    for page in man1/muster.1 man8/muster-agent.8 man8/muster-coordinator.8; do
        [ -s "/usr/share/man/$page" ] || refuse "there is no $page"
    done
}

start() {
    show systemctl start muster-coordinator muster-agent
    show systemctl --no-pager --lines 0 status muster-coordinator muster-agent muster-tasks.scope
    [ "$(stat -c '%U %a' /var/lib/muster/coordinator/token)" = "muster 600" ] || refuse "the token is open"
    await agent_is_there
    show muster status
    # 0A is LISTEN, 0100007F is 127.0.0.1.
    ! awk '$4 == "0A" && $2 !~ /^0100007F:/' /proc/net/tcp | grep . || refuse "somebody listens elsewhere"
    ! awk '$4 == "0A"' /proc/net/tcp6 | grep . || refuse "somebody listens elsewhere"
    pid=$(systemctl show --property MainPID --value muster-agent)
    [ "$(cat "/proc/$pid/oom_score_adj")" = -900 ] || refuse "the agent isn't the last to go"
    grep Cap "/proc/$pid/status"
    show systemctl show --property Delegate,ControlGroup,Slice muster-tasks.scope
    [ "$(systemctl show --property Delegate --value muster-tasks.scope)" = yes ] || refuse "nothing is delegated"
    muster-agent doctor --config /etc/muster/agent.toml > /run/doctor
    cat /run/doctor
    ! grep 'has not handed over' /run/doctor || refuse "systemd thinks that the tasks' group is its own"
}

run() {
    show muster run --name hello -- echo hello from a task
    show muster run --detach --name ticker --mem 64MiB -- \
        sh -c 'n=0; while :; do n=$((n + 1)); echo tick $n; sleep 0.2; done'
    await task_runs
    await has_ticked
    remember
    while read -r pid start; do
        grep -q '^0::/muster.slice/muster-tasks.slice/muster-tasks.scope/tasks/' "/proc/$pid/cgroup" ||
            refuse "process $pid is in $(cat "/proc/$pid/cgroup")"
        # Tasks go before the agent.
        [ "$(cat "/proc/$pid/oom_score_adj")" -gt 0 ] || refuse "process $pid has the agent's OOM score"
    done < /run/task-processes
    is_undisturbed
}

restart() {
    show systemctl restart muster-agent
    await task_runs
    is_undisturbed
}

reload() {
    show systemctl daemon-reload
    show systemctl daemon-reexec
    show systemctl set-property --runtime muster-tasks.slice MemoryMax=80%
    is_undisturbed
}

upgrade() {
    before=$(systemctl show --property MainPID --value muster-agent)
    show apt-get install --quiet --yes "$packages"/2/*.deb
    show dpkg-query --show muster muster-agent muster-coordinator
    [ "$(systemctl show --property MainPID --value muster-agent)" != "$before" ] || refuse "the old agent runs"
    is_active muster-agent
    await task_runs
    is_undisturbed
}

downgrade() {
    show apt-get install --quiet --yes --allow-downgrades "$packages"/1/muster-agent_*.deb
    is_active muster-agent
    await task_runs
    is_undisturbed
}

kill_agent() {
    show systemctl kill --signal KILL muster-agent
    await is_active muster-agent
    await task_runs
    is_undisturbed
}

remove() {
    show apt-get remove --quiet --yes muster-agent
    is_not_active muster-agent || refuse "the agent runs"
    [ ! -e /usr/bin/muster-agent ] || refuse "the agent's program is there"
    show systemctl daemon-reload
    is_active muster-tasks.scope || refuse "the unit that holds the tasks is gone"
    is_undisturbed
}

reinstall() {
    show apt-get install --quiet --yes "$packages"/2/muster-agent_*.deb
    show systemctl start muster-agent
    await task_runs
    is_undisturbed
    show muster task list
}

purge_with_a_task() {
    show apt-get purge --quiet --yes muster-agent
    [ -d /var/lib/muster/agent ] || refuse "the data of a running task is gone"
    is_undisturbed
}

end_tasks() {
    # Whoever ends the process that holds the unit ends no task.
    show kill -KILL "$(cat "${group%/tasks}/holder/cgroup.procs")"
    is_undisturbed
    show systemctl stop muster-tasks.scope
    while read -r pid start; do
        [ ! -e "/proc/$pid" ] || refuse "process $pid is still there"
    done < /run/task-processes
}

purge() {
    show apt-get install --quiet --yes "$packages"/2/muster-agent_*.deb
    show systemctl start muster-agent
    is_active muster-tasks.scope
    show apt-get purge --quiet --yes muster-agent muster-coordinator muster
    for path in /var/lib/muster /etc/muster /usr/lib/muster; do
        [ ! -e "$path" ] || refuse "$path is still there: $(find "$path")"
    done
    is_not_active muster-tasks.scope || refuse "the unit that held the tasks is still there"
}

echo "@muster up $(uname -r) with $(cat /etc/debian_version) after $(cut -d' ' -f1 /proc/uptime) s"
for name in install start run restart reload upgrade downgrade kill_agent remove reinstall \
    purge_with_a_task end_tasks purge; do
    step "$name"
done
echo "@muster done $failed"
systemctl poweroff --force --force
