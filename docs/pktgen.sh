#!/bin/sh
# Sends the shortest UDP packets to a VIP as fast as this host can, by the kernel's pktgen: see docs/benchmark.md.
# Ctrl-C ends an endless run; what each thread sent is printed then.
set -eu

usage() {
    echo "usage: $0 DEVICE DIRECTOR_MAC VIP PORT [one|many|new] [THREADS] [PACKETS]" >&2
    echo "  one: a single flow of each thread; many: 10,000 flows (the default); new: a flow for every packet" >&2
    echo "  PACKETS: of each thread; 0, the default, is without end" >&2
    exit 2
}

[ $# -ge 4 ] || usage
device=$1 mac=$2 vip=$3 port=$4 flows=${5:-many} threads=${6:-1} packets=${7:-0}
pktgen=/proc/net/pktgen

# clone_skb and burst send one packet several times: only where all are of one flow anyway.
case $flows in
    one) sources=1 clone=100000 burst=32 ;;
    many) sources=$((10000 / threads)) clone=0 burst=1 ;;
    new) sources=65536 clone=0 burst=1 ;;
    *) usage ;;
esac

[ -d $pktgen ] || modprobe pktgen

tell() {
    file=$1
    shift
    echo "$*" >"$pktgen/$file" || {
        echo "$0: pktgen refused \`$*' for $file" >&2
        exit 1
    }
}

# Dotted, of a number.
address() {
    echo "$(($1 >> 24 & 255)).$(($1 >> 16 & 255)).$(($1 >> 8 & 255)).$(($1 & 255))"
}

thread=0
while [ "$thread" -lt "$threads" ]; do
    at=$device@$thread
    # 10.64.0.0 and up, 65,536 addresses for each thread.
    first=$((0x0a400000 + thread * 65536))
    tell "kpktgend_$thread" rem_device_all
    tell "kpktgend_$thread" "add_device $at"
    tell "$at" "count $packets"
    tell "$at" "clone_skb $clone"
    tell "$at" "burst $burst"
    tell "$at" "pkt_size 60"
    tell "$at" "delay 0"
    tell "$at" "flag NO_TIMESTAMP"
    # A transmit queue of its own.
    tell "$at" "queue_map_min $thread"
    tell "$at" "queue_map_max $thread"
    tell "$at" "dst_mac $mac"
    tell "$at" "dst_min $vip"
    tell "$at" "dst_max $vip"
    tell "$at" "udp_dst_min $port"
    tell "$at" "udp_dst_max $port"
    tell "$at" "src_min $(address $first)"
    tell "$at" "src_max $(address $((first + sources - 1)))"
    if [ "$flows" = new ]; then
        # Both ranges go round, and their lengths have no common factor: 4 thousand million flows.
        tell "$at" "udp_src_min 1024"
        tell "$at" "udp_src_max 65535"
    else
        tell "$at" "udp_src_min 40000"
        tell "$at" "udp_src_max 40000"
    fi
    thread=$((thread + 1))
done

report() {
    thread=0
    while [ "$thread" -lt "$threads" ]; do
        echo "thread $thread:"
        sed -n '/^Result/,$p' "$pktgen/$device@$thread"
        thread=$((thread + 1))
    done
}
trap 'report; exit 0' INT TERM

# Returns when all threads have sent their packets.
echo start >"$pktgen/pgctrl"
report
