"""Calls through clusterset addresses: who answers, proven by cluster and pod UID."""

import time

from checks import check
from mcs import MODES, WEB, fqdn, path, stage
from probe import joined
from tools import until

NEEDS = ("mesh", "shop")
IP, DNS, PLAN = "#clustersetip", "#dns", "#test-plan"
DATAGRAMS = {"name": "datagrams", "port": 53, "protocol": "UDP", "targetPort": 8080}


@check("mcs-calls-importing-only", kep=PLAN, modes=MODES, needs=NEEDS)
def importing_only(context):
    """Pods of a cluster that only imports reach the exporter's pods, from every node, in each family, each way."""
    shop, near, far = stage(context)
    for exporter, importer in ((far, near), (near, far)):
        name = f"only-{exporter.name}"
        shop.offer(exporter, name)
        shop.until_from(importer, name, {exporter}, within=15)
        for caller in shop.on_nodes(importer):
            for ip in shop.until_import(importer, name)["spec"]["ips"]:
                seen = caller.once(ip, 80)
                context.expect(shop.who(seen) is exporter, f"from {caller.name} to {ip}: {seen}")
                context.expect(seen["port"] == 8080, f"answered at the target port {seen['port']}")


@check("mcs-udp-answers", kep=IP, modes=("identical", "ipv4"), needs=NEEDS)
def udp_answers(context):
    """A UDP port of an import is answered by pods of the other cluster, from every node, in each family, each way;
    of 100 new clients none is left without an answer."""
    shop, near, far = stage(context)
    for exporter, importer in ((far, near), (near, far)):
        name = f"udp-{exporter.name}"
        shop.offer(exporter, name, ports=(WEB, DATAGRAMS))
        # Ready: the gateways have opened what stands for the port, and nobody called it before.
        for ip in shop.until_import(importer, name, within=15)["spec"]["ips"]:
            until(f"a datagram of {importer.name} answered through {ip}", 10, lambda at=ip: shop.who(
                shop.callers[importer].once(at, 53, "udp", timeout="1s")) is exporter)
            for caller in shop.on_nodes(importer):
                seen = caller.once(ip, 53, "udp")
                context.expect(shop.who(seen) is exporter, f"from {caller.name} to {ip}: {seen}")
                context.expect(seen["port"] == 8080, f"answered at the target port {seen['port']}")
            seen = shop.answers(importer, ip, 53, count=100, rate=50, protocol="udp")
            unanswered = [record for record in seen if shop.who(record) is not exporter]
            context.figure(f"clients of {importer.name} unanswered through {ip}, of 100", len(unanswered), "", "= 0")


@check("mcs-calls-every-pod", kep=IP, modes=("identical", "flat"), needs=NEEDS)
def every_pod(context):
    """Calls from another cluster reach all ready pods of the exporter."""
    shop, near, far = stage(context)
    shop.offer(near, "spread")
    shop.until_from(far, "spread", {near})
    ip = shop.until_import(far, "spread")["spec"]["ips"][0]
    reached = {record["pod"] for record in shop.answers(far, ip, count=60) if not record.get("error")}
    context.figure("pods reached", len(reached), "", f"= {len(shop.uids[near])}")


@check("mcs-calls-by-name", kep=DNS, modes=MODES, needs=NEEDS)
def by_name(context):
    """A pod that calls the name of the cluster set is answered by the exporter; 0 of 100 calls fail."""
    shop, near, far = stage(context)
    shop.offer(far, "called")
    shop.until_from(near, "called", {far})
    until("its name", 3, lambda: shop.lookup(near, "called")["answers"])
    seen = shop.answers(near, f"{fqdn('called')}.", count=100, rate=50)
    failed = [record for record in seen if shop.who(record) is not far]
    context.figure("failed calls of 100", len(failed), "", "= 0")


@check("mcs-calls-local-first", kep=IP, level="SHOULD", modes=MODES, needs=NEEDS)
def local_first(context):
    """Where both clusters export, each calls its own pods; without any of its own, the other's; then its own again."""
    shop, near, far = stage(context)
    for cluster in (near, far):
        shop.offer(cluster, "moving")
    for cluster in (near, far):
        shop.until_clusters(cluster, "moving", [near.name, far.name])
        shop.until_from(cluster, "moving", {cluster})
        shop.always_from(cluster, "moving", {cluster})
    near.patch(path("services", "moving"), {"spec": {"selector": {"app": "nobody"}}})
    at = time.monotonic()
    shop.until_from(near, "moving", {far})
    context.figure("no pods of its own, to the other's answering in each family", time.monotonic() - at, "s", "<= 4")
    shop.always_from(near, "moving", {far})
    shop.always_from(far, "moving", {far})
    near.patch(path("services", "moving"), {"spec": {"selector": {"app": "echo"}}})
    shop.until_from(near, "moving", {near})
    until("all calls local again", 5, lambda: local_again(shop, near))


def local_again(shop, cluster):
    ips = shop.until_import(cluster, "moving")["spec"]["ips"]
    return all(shop.who(record) is cluster for ip in ips for record in shop.answers(cluster, ip, count=10))


@check("mcs-calls-target-ports", kep="#service-port", needs=NEEDS)
def target_ports(context):
    """Each exporter maps the import's port to its own target port, by number or by the container port's name."""
    shop, near, far = stage(context)
    shop.offer(near, "mapped", ports=({**WEB, "targetPort": 8080},))
    shop.offer(far, "mapped", ports=({**WEB, "targetPort": 9090},))
    for cluster, target in ((near, 8080), (far, 9090)):
        shop.until_clusters(cluster, "mapped", [near.name, far.name])
        shop.until_from(cluster, "mapped", {cluster})
        ip = shop.until_import(cluster, "mapped")["spec"]["ips"][0]
        context.expect(shop.callers[cluster].once(ip, 80)["port"] == target, f"{cluster.name}: not at {target}")
    near.patch(path("services", "mapped"), {"spec": {"selector": {"app": "nobody"}}})
    shop.until_from(near, "mapped", {far})
    ip = shop.until_import(near, "mapped")["spec"]["ips"][0]
    context.expect(shop.callers[near].once(ip, 80)["port"] == 9090, "not at the exporter's own target port")


@check("mcs-calls-hand-made-slices", kep=IP, needs=NEEDS)
def hand_made_slices(context):
    """A Service without selector and its hand-made slices are exported like any other."""
    shop, near, far = stage(context)
    shop.serve(far, "by-hand", selector=None, ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack")
    address = far.pods("shop", "app=echo")[0]["status"]["podIP"]
    far.apply([{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": "by-hand-1", "namespace": "shop", "labels": {
                    "kubernetes.io/service-name": "by-hand", "endpointslice.kubernetes.io/managed-by": "hand"}},
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": [address]}]}])
    shop.export(far, "by-hand")
    for cluster in (near, far):
        shop.until_from(cluster, "by-hand", {far})


@check("mcs-calls-cluster-local", kep=PLAN, modes=("identical", "flat"), needs=NEEDS)
def cluster_local(context):
    """A Service called by its own address is answered by its own cluster alone, though another has its name;
    with no pods of its own it is refused and never led to the other cluster."""
    shop, near, far = stage(context)
    for cluster in (near, far):
        shop.offer(cluster, "own")
        shop.until_import(cluster, "own")
    for cluster in (near, far):
        for ip in shop.find(cluster, "services", "own")["spec"]["clusterIPs"]:
            until(f"own of {cluster.name} at {ip}", 5, lambda at=cluster, to=ip: shop.who(
                shop.callers[at].once(to, 80, timeout="1s")) is at)
            seen = shop.answers(cluster, ip)
            context.expect(all(shop.who(record) is cluster for record in seen), f"{ip}: others too")
    near.patch(path("services", "own"), {"spec": {"selector": {"app": "nobody"}}})
    shop.until_from(near, "own", {far})
    ip = shop.find(near, "services", "own")["spec"]["clusterIPs"][0]
    until("the own address refused", 5, lambda: shop.callers[near].once(ip, 80, timeout="1s").get("error"))
    context.expect(all(record.get("error") for record in shop.answers(near, ip, count=5, timeout="1s")), "led away")


@check("mcs-calls-not-exported", kep="#exporting-services", needs=NEEDS)
def not_exported(context):
    """A Service that is not exported answers at none of the clusterset addresses of its cluster or another."""
    shop, near, far = stage(context)
    ports = ({**WEB, "port": 8088},)
    shop.serve(far, "hidden", ports=ports)
    shop.offer(far, "shown")
    for cluster in (near, far):
        shop.until_from(cluster, "shown", {far})
        for ip in shop.until_import(cluster, "shown")["spec"]["ips"]:
            seen = shop.callers[cluster].once(ip, 8088, timeout="1s")
            context.expect(seen.get("error"), f"{joined(ip, 8088)} of {cluster.name} answers: {seen}")
    shop.offer(near, "hidden", ports=ports)  # The name exported by the other cluster changes nothing.
    shop.until_from(far, "hidden", {near}, port=8088)
    shop.always_from(far, "hidden", {near}, port=8088)


@check("mcs-calls-affinity", kep="#session-affinity", level="SHOULD", needs=NEEDS)
def affinity(context):
    """With session affinity ClientIP all calls of a pod reach one and the same pod of the exporter."""
    shop, near, far = stage(context)
    shop.offer(near, "sticky", sessionAffinity="ClientIP")
    shop.until_from(far, "sticky", {near})
    for ip in shop.until_import(far, "sticky")["spec"]["ips"]:
        pods = {record["pod"] for record in shop.answers(far, ip, count=30) if not record.get("error")}
        context.figure(f"pods behind {'IPv6' if ':' in ip else 'IPv4'}", len(pods), "", "= 1")


@check("mcs-calls-mixed-families", kep=IP, modes=("identical", "ipv4"), needs=NEEDS)
def mixed_families(context):
    """A Service of one family is reached through each address that its import has in a cluster with other families."""
    shop, near, far = stage(context)
    for family in far.families:
        name = f"only-{family.lower()}"
        shop.offer(far, name, ipFamilies=[family], ipFamilyPolicy="SingleStack")
    for cluster in (near, far):
        for family in far.families:
            shop.until_from(cluster, f"only-{family.lower()}", {far})
    if far.families == near.families:
        return
    # Called where there is one family: pods of both, and pods of the other one alone.
    shop.offer(near, "both-families")
    shop.offer(near, "other-family", ipFamilies=["IPv6"], ipFamilyPolicy="SingleStack")
    for name in ("both-families", "other-family"):
        shop.until_from(far, name, {near})
