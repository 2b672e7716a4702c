#!/bin/busybox sh
# From the initramfs to a Debian on the first disk, with the second disk's files in it.
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev /new
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/lib/modules/$module" || echo "@muster warning: no module $module"
done < /lib/modules/list
until [ -e /dev/vda ] && [ -e /dev/vdb ]; do
    sleep 0.1
done
mount -t ext4 /dev/vda /new
tar -x -f /dev/vdb -C /new
umount /proc /sys
exec switch_root /new /sbin/init
