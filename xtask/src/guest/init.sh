#!/bin/busybox sh
# The first process of the virtual machine: from the initramfs to a root file system that can be pivoted.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t tmpfs -o size=75%,mode=755 tmpfs /new
# The initramfs itself can't be the old root of a pivot_root, so everything moves.
for entry in /*; do
    case $entry in
        /new|/proc|/sys|/dev) ;;
        *) cp -a "$entry" /new/ ;;
    esac
done
mkdir -p /new/proc /new/sys /new/dev /new/new
umount /proc
exec switch_root /new /bin/sh /muster/run.sh
