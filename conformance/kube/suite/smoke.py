"""The lab itself: what every other check relies on. Nothing of the product is in here."""

import time

from api import reason
from checks import check
from probe import Client, joined, server, service
from tools import Failed, until

ALL = ("identical", "disjoint", "flat", "ipv4")


def stage(context):
    """Made once in a lab: in each cluster a service with a server on every node, and a client pod."""
    if "smoke" not in context.shared:
        clients = {}
        for cluster in context.clusters:
            cluster.apply([server(cluster, "echo", replicas=len(cluster.nodes), spread=True, udp=(8080,)),
                           service(cluster, "echo", udp=(8080,))])
        for cluster in context.clusters:
            clients[cluster] = Client(cluster)
            cluster.until_rolled_out("default", "echo")
            until_all_served(cluster, clients[cluster])
        context.shared["smoke"] = clients
    return context.shared["smoke"]


def until_all_served(cluster, client):
    """kube-proxy has it: a connection is answered in each family."""
    for ip in addresses(cluster, "echo"):
        until(f"echo of {cluster.name} at {ip}", 15, lambda at=ip: not client.once(at, 8080, timeout="1s").get("error"))


def addresses(cluster, name, namespace="default"):
    return cluster.get(f"/api/v1/namespaces/{namespace}/services/{name}")["spec"]["clusterIPs"]


def pods(cluster, name):
    """Pods of an app, by node."""
    return sorted(cluster.pods("default", f"app={name}"), key=lambda pod: pod["spec"]["nodeName"])


def answered_by(seen, cluster):
    """That a connection was answered in this cluster by one of its own pods of today."""
    if seen.get("error"):
        raise Failed(f"no answer: {seen['error']}")
    uids = {pod["metadata"]["uid"] for pod in cluster.pods("default", "")}
    if seen["cluster"] != cluster.name or seen["pod"] not in uids:
        raise Failed(f"answered by {seen['cluster']}/{seen['pod']}, not by {cluster.name}")


def until_answered(client, ip, port, cluster, within=10):
    """Connects until an answer comes; the seconds it took."""
    begun = time.monotonic()

    def look():
        answered_by(client.once(ip, port, timeout="1s"), cluster)
        return True
    until(f"{joined(ip, port)} of {cluster.name}", within, look)
    return time.monotonic() - begun


@check("lab-nodes", level="smoke", modes=ALL)
def nodes_ready(context):
    """Every node is Ready, with the pod ranges that its network has."""
    for cluster in context.clusters:
        for node in cluster.nodes:
            context.expect(cluster.node_ready(node.name), f"{node.name} is not Ready")
            spec = cluster.get(f"/api/v1/nodes/{node.name}")["spec"]
            context.expect(spec["podCIDRs"] == node.pods, f"{node.name} has {spec['podCIDRs']}")


@check("lab-services", level="smoke", modes=ALL)
def pod_to_service(context):
    """A pod reaches a service of its cluster in each family, over TCP and UDP, on every node."""
    for cluster, client in stage(context).items():
        for ip in addresses(cluster, "echo"):
            for protocol in ("tcp", "udp"):
                seen = client.once(ip, 8080, protocol)
                answered_by(seen, cluster)
            nodes = {record["node"] for record in
                     client.run("load", target=joined(ip, 8080), rate=100, seconds=0.4) if "node" in record}
            context.expect(len(nodes) == len(cluster.nodes), f"{joined(ip, 8080)} reached only {nodes}")


@check("lab-dns", level="smoke", modes=ALL)
def cluster_dns(context):
    """CoreDNS answers names of the cluster, and its forward to nobody fails."""
    for cluster, client in stage(context).items():
        for ip in addresses(cluster, "echo"):
            kind = "AAAA" if ":" in ip else "A"
            seen = client.lookup("echo.default.svc.cluster.local", kind)
            context.expect(seen["answers"] == [ip], f"{kind} in {cluster.name}: {seen}")
        missing = client.lookup("nothing.default.svc.cluster.local")
        context.expect(missing["rcode"] == 3, f"a missing name in {cluster.name}: {missing}")


@check("lab-clusterset-forward", level="smoke")
def clusterset_forward(context):
    """clusterset.local goes to the address that the product's DNS Service claims."""
    corefile = 'clusterset.local:53 {\n  template IN A {\n    answer "{{ .Name }} 5 IN A 192.0.2.1"\n  }\n}\n'
    for cluster, client in stage(context).items():
        claimed = cluster.addresses.service(53)[0]
        standing = server(cluster, "claims-dns")
        standing["spec"]["template"]["spec"].update({
            "containers": [{"name": "dns", "image": "portolan.test/coredns:1", "args": ["-conf", "/etc/dns/Corefile"],
                            "volumeMounts": [{"name": "config", "mountPath": "/etc/dns"}]}],
            "volumes": [{"name": "config", "configMap": {"name": "claims-dns"}}],
            "terminationGracePeriodSeconds": 0})
        made = [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "claims-dns", "namespace": "default"},
             "data": {"Corefile": corefile}},
            service(cluster, "claims-dns", tcp=(53,), udp=(53,), clusterIP=claimed,
                    ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"]),
            standing]
        cluster.apply(made)
        until(f"the forwarded name in {cluster.name}", 20, lambda at=client: at.lookup(
            "a.b.svc.clusterset.local", timeout="1s")["answers"] == ["192.0.2.1"])
        for document in made:
            cluster.delete(cluster.path_of(document))


@check("lab-rbac", level="smoke")
def service_account_rbac(context):
    """A service account is refused, then allowed by RBAC, then refused again."""
    cluster = context.clusters[0]
    account = cluster.token("default", "default")
    path = "/api/v1/namespaces/default/configmaps"
    status, reply = account.request("GET", path)
    context.expect(status == 403, f"without a role: {status} {reason(reply)}")
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "reads", "namespace": "default"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]}
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
               "metadata": {"name": "reads", "namespace": "default"},
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reads"},
               "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]}
    cluster.apply([role, binding])
    until("the role allows", 5, lambda: account.request("GET", path)[0] == 200)
    cluster.delete(cluster.path_of(binding))
    until("the role is gone", 5, lambda: account.request("GET", path)[0] == 403)


@check("lab-watch", level="smoke")
def watch_events(context):
    """A watch shows a write within moments of the API's reply."""
    cluster = context.clusters[0]
    path = "/api/v1/namespaces/default/configmaps"
    watch = cluster.watch(path)
    worst = 0.0
    for n in range(20):
        cluster.create(path, {"metadata": {"name": f"seen-{n}"}})
        replied = time.monotonic()
        at, _ = watch.until(lambda event, n=n: event["object"]["metadata"]["name"] == f"seen-{n}", 5)
        worst = max(worst, at - replied)
        cluster.delete(f"{path}/seen-{n}")
    watch.close()
    context.figure("reply to event, worst of 20", worst * 1000, "ms", "<= 200")


@check("lab-load-balancer", level="smoke")
def load_balancer(context):
    """A load balancer's address is answered to another cluster's pods, by ready nodes only."""
    clients = stage(context)
    near, far = context.clusters[1], context.clusters[0]
    far.apply([service(far, "front", app="echo", type="LoadBalancer", externalTrafficPolicy="Local")])
    path = "/api/v1/namespaces/default/services/front"
    until("an address", 5, lambda: far.get(path)["status"]["loadBalancer"].get("ingress"))
    ips = [i["ip"] for i in far.get(path)["status"]["loadBalancer"]["ingress"]]
    wanted = [ip for ip in ips if ":" not in ip or "IPv6" in near.families]
    for ip in wanted:
        took = until_answered(clients[near], ip, 8080, far)
        records = clients[near].run("load", target=joined(ip, 8080), rate=100, seconds=0.5)
        reached = {r["node"] for r in records if r.get("node")}
        context.expect(len(reached) == len(far.nodes), f"{ip}: only {reached} after {took:.1f} s")
    second = far.nodes[1]
    far.patch("/apis/apps/v1/namespaces/default/deployments/echo", {"spec": {"template": {"spec": {
        "nodeSelector": {"kubernetes.io/hostname": far.nodes[0].name}, "topologySpreadConstraints": None}}}})
    far.until_rolled_out("default", "echo")
    records = clients[near].run("load", target=joined(wanted[0], 8080), rate=100, seconds=1)
    failed = [r for r in records if r.get("error")]
    context.figure("failed once no pod is on the second node", len(failed), "of 100", "= 0")
    context.expect(all(r["node"] != second.name for r in records if r.get("node")), "the empty node answered")
    far.delete(path)
    far.apply([server(far, "echo", replicas=len(far.nodes), spread=True, udp=(8080,))])
    far.patch("/apis/apps/v1/namespaces/default/deployments/echo",
              {"spec": {"template": {"spec": {"nodeSelector": None}}}})
    far.until_rolled_out("default", "echo")


@check("lab-pod-to-pod", level="smoke", modes=("disjoint", "flat"))
def pod_to_pod(context):
    """A pod of another cluster is reached where the network is flat, and nowhere else."""
    near, far = context.clusters
    client = stage(context)[near]
    for address in pods(far, "echo")[0]["status"]["podIPs"]:
        seen = client.once(address["ip"], 8080, timeout="2s")
        if context.mode == "flat":
            answered_by(seen, far)
            own = {a["ip"] for a in client.pod["status"]["podIPs"]}
            context.expect(seen["peer"].rsplit(":", 1)[0].strip("[]") in own, f"seen as {seen['peer']}")
        else:
            context.expect(seen.get("error"), f"{address['ip']} was answered by {seen['cluster']}")


@check("lab-same-address", level="smoke")
def same_address(context):
    """One and the same address is a different pod, or service, in each cluster."""
    clients = stage(context)
    shared = "10.200.0.99"
    for cluster in context.clusters:
        cluster.apply([service(cluster, "same", app="echo", clusterIP=shared, udp=(8080,),
                               ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"])])
        # CNI hands addresses out in order: with so many, some are in both clusters.
        cluster.apply([server(cluster, "crowd", replicas=8, nodeSelector={
            "kubernetes.io/hostname": cluster.nodes[0].name})])
    for cluster in context.clusters:
        cluster.until_rolled_out("default", "crowd")
    held = {cluster: {a["ip"]: pod["metadata"]["uid"] for pod in pods(cluster, "crowd")
                      for a in pod["status"]["podIPs"]} for cluster in context.clusters}
    both = set.intersection(*(set(of) for of in held.values()))
    context.figure("pod addresses in both clusters", len(both), "", ">= 2")
    for cluster, client in clients.items():
        until_answered(client, shared, 8080, cluster)
        answered_by(client.once(shared, 8080, "udp"), cluster)
        for ip in both:
            seen = client.once(ip, 8080)
            context.expect(seen["pod"] == held[cluster][ip], f"{ip} from {cluster.name}: {seen}")
        begun = time.monotonic()
        context.expect(client.once("10.100.9.9", 8080)["error"], "an address of nobody answers")
        context.expect(time.monotonic() - begun < 2, "an address of nobody is silent, not refused")
        cluster.delete("/apis/apps/v1/namespaces/default/deployments/crowd")
        cluster.delete("/api/v1/namespaces/default/services/same")


LEAKS = """table netdev leaks
delete table netdev leaks
table netdev leaks {
  chain arriving {
    type filter hook ingress device eth0 priority 0;
    ether saddr { MACS } ip saddr { 10.100.0.0/16, 10.200.0.0/16 } counter
    ether saddr { MACS } ip6 saddr { fd00:100::/56, fd00:200::/112 } counter
  }
}
"""


@check("lab-no-leak", level="smoke")
def no_leak(context):
    """No packet with a pod's address leaves, even where conntrack forgot the connection."""
    clients = stage(context)
    near, far = context.clusters
    node = next(n for n in near.nodes if n.name == clients[near].pod["spec"]["nodeName"])
    macs = ", ".join(mac(n) for n in near.nodes)
    for each in far.nodes:
        each.nft(LEAKS.replace("MACS", macs))
    port = node_port(far, "leaks")
    node.run("sysctl", "-q", "-w", "net.netfilter.nf_conntrack_tcp_loose=0")
    for guarded in (True, False):
        if not guarded:  # The same without the node's guard, so that we know that it would be seen.
            node.run("nft", "flush", "chain", "inet", "lab", "through")
        for ip in far.nodes[0].ips:
            until_answered(clients[near], ip, port, far)
            held = clients[near].streams(joined(ip, port), 10, every="20ms", silence="2s", seconds=3)
            held.until(lambda record: record.get("opened"), 5)
            node.run("conntrack", "-F")
            held.wait(20)
        leaked = sum(packets(each) for each in far.nodes)
        if guarded:
            context.figure("packets with a pod's address at another cluster", leaked, "", "= 0")
        else:
            context.figure("the same without the guard", leaked, "", ">= 1")
    node.run("sysctl", "-q", "-w", "net.netfilter.nf_conntrack_tcp_loose=1")
    node.run("nft", "delete", "table", "inet", "lab")
    node.run("nft", "-f", node.dir / "node.nft")
    for each in far.nodes:
        each.run("nft", "delete", "table", "netdev", "leaks")
    far.delete("/api/v1/namespaces/default/services/leaks")


def node_port(cluster, name):
    """A port of every node of the cluster that leads to its servers."""
    cluster.apply([service(cluster, name, type="NodePort", app="echo")])
    return cluster.get(f"/api/v1/namespaces/default/services/{name}")["spec"]["ports"][0]["nodePort"]


def packets(node):
    text = node.run("nft", "list", "table", "netdev", "leaks")
    return sum(int(part.split()[0]) for part in text.split("counter packets ")[1:])


def mac(node):
    """The hardware address of a node's eth0; /sys shows another namespace's."""
    return node.run("ip", "-o", "link", "show", "eth0").split("link/ether ")[1].split()[0]


@check("lab-partition", level="smoke", modes=("identical", "disjoint"))
def partition(context):
    """A cut uplink is silence to other clusters and nothing to one's own; healed, all is back."""
    near, far = context.clusters
    clients = stage(context)
    port = node_port(far, "outside")
    until_answered(clients[near], far.host, port, far)
    far.cut_uplink()
    try:
        seen = clients[near].once(far.host, port, timeout="2s")
        context.expect("timeout" in seen.get("error", ""), f"while cut: {seen}")
        for cluster in (near, far):
            answered_by(clients[cluster].once(addresses(cluster, "echo")[0], 8080), cluster)
    finally:
        far.heal_uplink()
    context.figure("healed to answer", until_answered(clients[near], far.host, port, far), "s", "<= 3")
    far.delete("/api/v1/namespaces/default/services/outside")


@check("lab-node-silence", level="smoke")
def node_silence(context):
    """A node whose packets are all dropped answers nobody; healed, it does."""
    cluster = context.clusters[0]
    client = Client(cluster, "on-first", node=cluster.nodes[0])
    pod = next(p for p in pods(cluster, "echo") if p["spec"]["nodeName"] == cluster.nodes[1].name)
    ip = pod["status"]["podIP"]
    answered_by(client.once(ip, 8080), cluster)
    cluster.nodes[1].drop_all()
    try:
        seen = client.once(ip, 8080, timeout="2s")
        context.expect(seen.get("error"), f"while silent: {seen}")
    finally:
        cluster.nodes[1].heal()
    context.figure("healed to answer", until_answered(client, ip, 8080, cluster), "s", "<= 3")


@check("lab-kill-pod-process", level="smoke")
def kill_pod_process(context):
    """kill -9 of a pod's process shows in its endpoint slice, and kubelet starts it again."""
    stage(context)
    cluster = context.clusters[0]
    pod = pods(cluster, "echo")[0]
    uid = pod["metadata"]["uid"]
    watch = cluster.watch("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector="
                          "kubernetes.io/service-name%3Decho")
    cluster.kill_pod_process("default", pod)
    killed = time.monotonic()

    def ready(event, wanted):
        return any(e["targetRef"]["uid"] == uid and e["conditions"]["ready"] is wanted
                   for e in event["object"]["endpoints"] or [])
    gone, _ = watch.until(lambda event: ready(event, False), 10)
    back, _ = watch.until(lambda event: ready(event, True), 20, after=gone)
    watch.close()
    context.figure("kill to not ready", gone - killed, "s", "<= 5")
    context.figure("not ready to ready", back - gone, "s", "<= 20")


@check("lab-api-server", level="smoke")
def api_server_killed(context):
    """The API server killed and kept down: pods and services go on; back, all objects are there."""
    clients = stage(context)
    cluster = context.clusters[0]
    before = {pod["metadata"]["uid"] for pod in cluster.pods("default")}
    ip = addresses(cluster, "echo")[0]
    load = clients[cluster].load(joined(ip, 8080), rate=50)
    names = clients[cluster].start("dns", name="echo.default.svc.cluster.local", rate=20)
    load.until(lambda record: record.get("pod"), 5)
    cluster.stop_apiserver()
    try:
        until("refused", 5, lambda: refused(cluster))
        time.sleep(5)
    finally:
        begun = time.monotonic()
        cluster.start_apiserver()
    back = time.monotonic() - begun
    records = load.finish()
    context.figure("begun connections meanwhile", records[-1]["begun"], "", ">= 250")
    context.figure("failed connections", records[-1]["failed"], "", "= 0")
    context.figure("failed lookups", names.finish()[-1]["failed"], "", "= 0")
    context.figure("start to ready", back, "s", "<= 30")
    after = {pod["metadata"]["uid"] for pod in cluster.pods("default")}
    context.expect(before <= after, "pods are gone")


def refused(cluster):
    try:
        cluster.api("GET", "/readyz", timeout=2)
    except Failed:
        return True
    return False
