#!/bin/busybox sh
# First process of the VM: mounts, modules, the one program, power off. Its last words are
# `VM-RESULT: <exit status>`; without that line the VM did not get to the end.
# busybox's own applets come first in this shell, so what must be the real thing has its full path.
export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/vm
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /run
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mkdir -p /run/netns
mount -t bpf bpffs /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
/sbin/ip link set lo up
while read -r module; do
    modprobe "$module" || echo "VM: no module $module"
done </vm/modules
echo "VM: Linux $(uname -r), up for $(cut -d' ' -f1 /proc/uptime) s"
cd /vm || exit 1
/bin/sh /vm/run
result=$?
echo
echo "VM-RESULT: $result"
sync
poweroff -f
