#!/bin/busybox sh
# The first process of a machine whose power will be cut: a member with its data on the first disk, and a writer.
# Lines that start with @power are for the one who booted us.
/bin/busybox --install -s /bin
export PATH=/bin:/muster/bin
mkdir -p /proc /sys /dev /disk /tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/lib/modules/$module" || echo "@power wrong no module $module;"
done < /lib/modules/list
until [ -e /dev/vda ]; do
    sleep 0.05
done
ip link set lo up
echo "there is a disk after $(cut -d ' ' -f 1 /proc/uptime) s"
early=
for word in $(cat /proc/cmdline); do
    [ "$word" != power.early ] || early=--early
done
if mount -t ext4 -o errors=panic /dev/vda /disk; then
    echo "it is mounted after $(cut -d ' ' -f 1 /proc/uptime) s"
    # A snapshot every hundred entries, so that the power goes while one is written, and while its log is cut short.
    muster-coordinator --data-dir /disk/coordinator --snapshot-entries 100 &
    member=$!
    power-writer unix:/disk/coordinator/api.sock $early &
    wait $member
    echo "@power wrong the member ended with $?;"
else
    echo "@power wrong the disk can't be mounted;"
fi
poweroff -f
