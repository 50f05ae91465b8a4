"""Configuration of the programs of a node, as files in its directory.

Everything unusual here has its reason in a machine that is shared: no limits of the whole machine
are touched, nothing is evicted, several kubelets keep apart by control group.
"""

import json

CONTAINERD = """version = 2
oom_score = 0
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "portolan.test/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def cni(node):
    default = {"10": "0.0.0.0/0", "fd": "::/0"}
    return {"cniVersion": "0.4.0", "name": "lab", "plugins": [{
        # Routed, not bridged: a pod that reaches a service whose endpoint is on its node needs no
        # exception that way.
        "type": "ptp", "ipMasq": False,
        "ipam": {"type": "host-local",
                 "ranges": [[{"subnet": pods}] for pods in node.pods],
                 "routes": [{"dst": default[pods[:2]]} for pods in node.pods]},
    }]}


def kubelet(node, certs):
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                           "x509": {"clientCAFile": f"{certs}/ca.crt"}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{node.cgroup}", "failCgroupV1": False,
        "clusterDNS": node.addresses.service(10), "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        # Of the whole disk, which others fill too.
        "evictionHard": {"nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": False, "oomScoreAdj": 0, "failSwapOn": False,
        "resolvConf": "/etc/resolv.conf", "maxPods": 200,
        "podLogsDir": "/var/log/pods", "registerNode": True,
    }


def kube_proxy(node, certs):
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "nftables", "clusterCIDR": ",".join(node.addresses.pods()), "hostnameOverride": node.name,
        "clientConnection": {"kubeconfig": f"{certs}/{node.name}-kube-proxy.conf"},
        # Outside the first network namespace these must not be touched.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def control_plane(node, certs):
    """The arguments of the control plane's programs."""
    addresses = node.addresses
    services, pods = ",".join(addresses.services()), ",".join(addresses.pods())
    ip = addresses.node(1)[0]
    return {
        "etcd": [
            "--data-dir=/var/lib/etcd", "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=default=http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level=warn"],
        "kube-apiserver": [
            f"--advertise-address={ip}", "--secure-port=6443", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
            "--etcd-servers=http://127.0.0.1:2379", f"--service-cluster-ip-range={services}",
            f"--client-ca-file={certs}/ca.crt", f"--tls-cert-file={certs}/apiserver.crt",
            f"--tls-private-key-file={certs}/apiserver.key",
            f"--kubelet-client-certificate={certs}/admin.crt", f"--kubelet-client-key={certs}/admin.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={certs}/sa.pub", f"--service-account-signing-key-file={certs}/sa.key",
            "--anonymous-auth=false", "--profiling=false"],
        "kube-controller-manager": [
            f"--kubeconfig={certs}/kube-controller-manager.conf", "--leader-elect=false",
            "--use-service-account-credentials", "--allocate-node-cidrs=true", f"--cluster-cidr={pods}",
            f"--service-cluster-ip-range={services}", f"--root-ca-file={certs}/ca.crt",
            f"--service-account-private-key-file={certs}/sa.key",
            # It starts its controllers at the pace of these; the defaults cost 4 s.
            "--kube-api-qps=500", "--kube-api-burst=1000"]
            + (["--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64"]
               if len(addresses.families) > 1 else ["--node-cidr-mask-size=24"]),
        "kube-scheduler": [f"--kubeconfig={certs}/kube-scheduler.conf", "--leader-elect=false"],
    }


def write(node, certs):
    """All files of a node's programs."""
    etc, args = node.dir / "etc", node.dir / "args"
    (etc / "cni/net.d").mkdir(parents=True)
    (etc / "containerd").mkdir(exist_ok=True)
    (etc / "kubernetes").mkdir(exist_ok=True)
    args.mkdir()
    (etc / "cni/net.d/10-lab.conflist").write_text(json.dumps(cni(node)))
    (etc / "containerd/config.toml").write_text(CONTAINERD)
    (etc / "kubernetes/kubelet.json").write_text(json.dumps(kubelet(node, certs)))
    (etc / "kubernetes/kube-proxy.json").write_text(json.dumps(kube_proxy(node, certs)))
    arguments = {
        "kubelet": ["--config=/etc/kubernetes/kubelet.json", f"--kubeconfig={certs}/{node.name}.conf",
                    f"--hostname-override={node.name}", f"--node-ip={','.join(node.ips)}"],
        "kube-proxy": ["--config=/etc/kubernetes/kube-proxy.json"],
    }
    if node.m == 1:
        arguments.update(control_plane(node, certs))
    for program, wanted in arguments.items():
        (args / program).write_text("\n".join(wanted) + "\n")
