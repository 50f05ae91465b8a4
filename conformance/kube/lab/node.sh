#!/usr/bin/env bash
# The first process of a node, inside its namespaces: mounts, addresses, then the programs, each
# started again a second after it ends. $1 is the node's directory; node.env in it says the rest.
# Python speaks to it by files in ctl: NAME.hold keeps a program down, `joined` lets kubelet start.
set -u
dir=$1
. "$dir/node.env"
exec >>"$dir/log/node" 2>&1 </dev/null

mount -t tmpfs tmpfs /run
mount -t overlay overlay -o "lowerdir=$TREE/usr:/usr" /usr
mount --bind "$dir/etc" /etc
mount --bind "$dir/var" /var
# kubelet wants these of the whole machine; it finds them as it wants them and leaves it alone.
for setting in overcommit_memory:vm/overcommit_memory panic:kernel/panic panic_on_oops:kernel/panic_on_oops; do
    mount --bind "$dir/sysctl/${setting%%:*}" "/proc/sys/${setting#*:}"
done
mount --make-rshared /
hostname "$NAME"
export PATH="$PROGRAMS:/usr/sbin:/usr/bin"

ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
for setting in net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
    net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0 net.ipv4.conf.eth0.rp_filter=0; do
    sysctl -q -w "$setting"
done
ip -batch "$dir/net.ip"
ip -6 -batch "$dir/net6.ip"
nft -f "$dir/node.nft"

keep() {
    local name=$1
    shift
    while :; do
        while [ -e "$dir/ctl/$name.hold" ]; do sleep 0.1; done
        "$@" >>"$dir/log/$name" 2>&1 &
        echo $! >"$dir/ctl/$name.pid"
        wait $!
        echo "$(date +%T.%N) $name ended: $?"
        sleep 1
    done
}

joined() {
    until [ -e "$dir/ctl/joined" ]; do sleep 0.05; done
    "$@"
}

import() {
    local image
    until ctr version >/dev/null 2>&1; do sleep 0.1; done
    for image in $IMAGES; do
        ctr -n k8s.io images import "$image" || return
    done
    touch "$dir/ctl/imported"
}

keep containerd containerd --config /etc/containerd/config.toml &
import &
if [ -n "$CONTROL_PLANE" ]; then
    for program in etcd kube-apiserver kube-controller-manager kube-scheduler; do
        mapfile -t arguments <"$dir/args/$program"
        keep "$program" "$program" "${arguments[@]}" &
    done
fi
for program in kubelet kube-proxy; do
    mapfile -t arguments <"$dir/args/$program"
    joined keep "$program" "$program" "${arguments[@]}" &
done
touch "$dir/ctl/started"
# Not exec: a shell reaps what is left to it.
while :; do wait; sleep 1; done
