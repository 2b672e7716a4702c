#!/bin/sh
# Makes the virtual machine a host as Muster expects it, runs the plan, and says on the console how it went.
# Lines that start with @muster are for the one who booted us.
export PATH=/bin:/sbin:/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
done
while read -r module; do
    insmod "/lib/modules/$module" || echo "@muster warning: no module $module"
done < /lib/modules/list
# What is written to a tmpfs counts as the writer's memory; tasks and agents write to a disk, as everywhere.
mount -t ext4 /dev/vda /mnt || echo "@muster warning: no disk"
for folder in /tmp /var/tmp; do
    mkdir -p "/mnt$folder"
    chmod 1777 "/mnt$folder"
    mount -o bind "/mnt$folder" "$folder"
done
# A disk that knows weights, and huge pages, so that limits on both can be tried.
echo bfq > /sys/block/vda/queue/scheduler
echo 8 > /proc/sys/vm/nr_hugepages
ip link set lo up
hostname guest

export MUSTER_GUEST=1 MUSTER_BIN_DIR=/muster/bin RUST_BACKTRACE=1
echo "@muster up $(uname -r) with $(cat /sys/fs/cgroup/cgroup.subtree_control) after $(cut -d' ' -f1 /proc/uptime) s"
failed=0
tab=$(printf '\t')
while IFS="$tab" read -r name line; do
    echo "@muster begin $name"
    (cd /tmp && sh -c "$line") < /dev/null 2>&1
    code=$?
    echo "@muster end $name $code"
    if [ "$code" != 0 ]; then
        failed=1
        echo "@muster last words of the kernel:"
        dmesg | tail -n 40
    fi
done < /muster/plan
echo "@muster done $failed"
poweroff -f
