"""Headless services: pods by name, from a cluster whose network reaches them and from one whose does not."""

import concurrent.futures
import time

from checks import check
from mcs import MODES, NAMESPACE, SLICES, WEB, fqdn, path, stage
from probe import container
from tools import Failed, until

NEEDS = ("mesh", "shop")
SPEC = "/specification.md"
SOURCE = "multicluster.kubernetes.io/source-cluster"
SERVICE = "kubernetes.io/service-name"
# The container's port; the Service's is 80.
TARGET = 8080
NAME, PODS, MANY = "stateful", 3, 20


def stateful_set(cluster, name, replicas):
    """A StatefulSet of servers, labelled app=NAME."""
    pod = {"containers": [container(cluster, ["serve", "--tcp", TARGET, "--udp", ""], ready=TARGET)],
           "terminationGracePeriodSeconds": 1}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"serviceName": name, "replicas": replicas, "podManagementPolicy": "Parallel",
                     "selector": {"matchLabels": {"app": name}},
                     "template": {"metadata": {"labels": {"app": name}}, "spec": pod}}}


def scale(cluster, name, replicas):
    cluster.apply([stateful_set(cluster, name, replicas)])


def serve(shop, cluster, name, replicas):
    """The pods and their headless Service, all ready; the pods' UIDs by name."""
    scale(cluster, name, replicas)
    shop.serve(cluster, name, selector={"app": name}, clusterIP="None")
    return until(f"{replicas} pods of {name}", 180, lambda: ready_pods(cluster, name, replicas), every=0.2)


def ready_pods(cluster, name, count):
    """UIDs by name, once so many pods are ready."""
    def is_ready(pod):
        return "deletionTimestamp" not in pod["metadata"] and any(
            one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))
    found = {pod["metadata"]["name"]: pod["metadata"]["uid"]
             for pod in cluster.pods(NAMESPACE, f"app={name}") if is_ready(pod)}
    return found if len(found) == count else None


def made(shop, near, far):
    """A headless service of the second cluster, once in a lab; the UIDs of its pods by name."""
    if not shop.find(far, "serviceexports", NAME):
        serve(shop, far, NAME, PODS)
        shop.export(far, NAME)
    uids = until(f"pods of {NAME}", 60, lambda: ready_pods(far, NAME, PODS))
    for cluster in (near, far):
        families = shop.until_import(cluster, NAME)["spec"]["ipFamilies"]
        until(f"slices of {NAME} in {cluster.name}", 10, lambda at=cluster, wanted=len(families): all(
            len(addresses) == wanted for addresses in named(shop, at, far).values()) and len(
                named(shop, at, far)) == PODS)
        for host in uids:
            until(f"{host} in {cluster.name}", 5, lambda at=cluster, of=host: shop.lookup(
                at, pod_name(of, far))["answers"])
    return uids


def pod_name(host, cluster, name=NAME):
    return f"{host}.{cluster.name}.{fqdn(name)}"


def named(shop, cluster, source, name=NAME):
    """Addresses by hostname, of the ready endpoints in the slices of one source cluster."""
    found = {}
    for one in shop.slices(cluster, name):
        if one["metadata"]["labels"][SOURCE] == source.name:
            for endpoint in one["endpoints"]:
                if endpoint["conditions"].get("ready"):
                    found.setdefault(endpoint.get("hostname"), set()).update(endpoint["addresses"])
    return found


def asked(shop, cluster, name):
    """A and AAAA of a name, as a set."""
    return {address for kind in ("A", "AAAA") for address in shop.lookup(cluster, name, kind)["answers"]}


@check("mcs-headless-import", kep="#service-types", modes=MODES, needs=NEEDS)
def headless_import(context):
    """A headless Service is imported with type Headless and no address."""
    shop, near, far = stage(context)
    made(shop, near, far)
    for cluster in (near, far):
        spec = shop.until_import(cluster, NAME)["spec"]
        context.expect(spec["type"] == "Headless" and not spec.get("ips"), f"{cluster.name}: {spec}")
        wanted = [family for family in cluster.families if family in far.families]
        context.expect(sorted(spec["ipFamilies"]) == sorted(wanted), f"{cluster.name}: {spec['ipFamilies']}")
        context.expect([port["port"] for port in spec["ports"]] == [80], f"{cluster.name}: {spec['ports']}")


@check("mcs-headless-addresses", kep=f"{SPEC}#241----records", modes=MODES, needs=NEEDS)
def headless_addresses(context):
    """A and AAAA of a headless name are its ready endpoints, as they stand in the slices."""
    shop, near, far = stage(context)
    made(shop, near, far)
    for cluster in (near, far):
        wanted = set().union(*named(shop, cluster, far).values())
        seen = asked(shop, cluster, NAME)
        context.expect(seen == wanted, f"{cluster.name}: {seen}, the slices have {wanted}")
    own = {one["ip"] for pod in far.pods(NAMESPACE, f"app={NAME}") for one in pod["status"]["podIPs"]}
    context.expect(asked(shop, far, NAME) == own, f"{far.name} does not answer its pods' addresses {own}")
    if context.mode == "flat":
        context.expect(asked(shop, near, NAME) == own, f"{near.name} does not answer the pods' addresses {own}")


@check("mcs-headless-pod-names", kep=f"{SPEC}#241----records", modes=MODES, needs=NEEDS)
def headless_pod_names(context):
    """<hostname>.<clusterid>.<service> is the pod's address, and who calls it reaches that pod."""
    shop, near, far = stage(context)
    uids = made(shop, near, far)
    for cluster in (near, far):
        stand = named(shop, cluster, far)
        for host, uid in uids.items():
            name = pod_name(host, far)
            seen = asked(shop, cluster, name)
            context.expect(seen == stand[host], f"{cluster.name}: {name} is {seen}, the slices have {stand[host]}")
            for address in seen:
                until(f"{name} at {address} from {cluster.name}", 10, lambda at=cluster, to=address, pod=uid: (
                    shop.callers[at].once(to, TARGET, timeout="2s").get("pod") == pod))
        for absent in (f"{NAME}-99.{far.name}", f"{NAME}-0.elsewhere"):
            seen = shop.lookup(cluster, f"{absent}.{fqdn(NAME)}")
            context.expect(seen["rcode"] == 3, f"{cluster.name}: {absent} {seen}")


@check("mcs-headless-srv", kep=f"{SPEC}#242----records", modes=MODES, needs=NEEDS)
def headless_srv(context):
    """SRV of a headless name: one for each endpoint and port, with the port at the endpoint."""
    shop, near, far = stage(context)
    uids = made(shop, near, far)
    for cluster in (near, far):
        for owner in (f"_http._tcp.{fqdn(NAME)}", fqdn(NAME)):
            seen = shop.lookup(cluster, owner, "SRV")
            got = sorted(tuple(answer.split()[2:4]) for answer in seen["answers"])
            wanted = sorted((str(TARGET), f"{pod_name(host, far)}.") for host in uids)
            context.expect(got == wanted, f"{cluster.name}: {owner} {seen}")


@check("mcs-headless-nothing-ready", kep=f"{SPEC}#241----records", level="SHOULD", needs=NEEDS)
def headless_nothing_ready(context):
    """A headless name with nothing ready is NXDOMAIN; its import stays, and it is back with its pods."""
    shop, near, far = stage(context)
    made(shop, near, far)
    far.patch(path("services", NAME), {"spec": {"selector": {"app": "nobody"}}})
    try:
        for cluster in (near, far):
            for name in (fqdn(NAME), pod_name(f"{NAME}-0", far)):
                until(f"{name} is NXDOMAIN in {cluster.name}", 10,
                      lambda at=cluster, of=name: shop.lookup(at, of)["rcode"] == 3)
            until(f"no slices in {cluster.name}", 5, lambda at=cluster: not named(shop, at, far))
            context.expect(shop.find(cluster, "serviceimports", NAME), f"{cluster.name} has no import any more")
    finally:
        far.patch(path("services", NAME), {"spec": {"selector": {"app": NAME}}})
    made(shop, near, far)


@check("mcs-headless-no-cluster-names",
       kep=f"{SPEC}#244---records-that-should-not-exist-for-a-multicluster-headless-service", level="SHOULD",
       needs=NEEDS)
def headless_no_cluster_names(context):
    """There is no name for all endpoints of one cluster."""
    shop, near, far = stage(context)
    made(shop, near, far)
    for cluster in (near, far):
        for kind in ("A", "AAAA", "SRV"):
            seen = shop.lookup(cluster, f"{far.name}.{fqdn(NAME)}", kind)
            context.expect(not seen["answers"], f"{cluster.name}: {seen}")


@check("mcs-headless-slices", kep="#using-endpointslice-objects-to-track-endpoints", modes=MODES, needs=NEEDS)
def headless_slices(context):
    """Hostnames stand in the slices, and each address with its port is that pod."""
    shop, near, far = stage(context)
    uids = made(shop, near, far)
    for cluster in (near, far):
        for one in shop.slices(cluster, NAME):
            meta = one["metadata"]
            context.expect(SERVICE not in meta["labels"], f"kube-proxy would take {meta['name']}")
            for endpoint in one["endpoints"]:
                seen = shop.callers[cluster].once(endpoint["addresses"][0], one["ports"][0]["port"])
                context.expect(seen.get("pod") == uids[endpoint["hostname"]], f"{endpoint} in {cluster.name}: {seen}")


@check("mcs-headless-two-exporters", kep="#headlessness", needs=NEEDS)
def headless_two(context):
    """Pods of one name in two clusters have two names, and the service's name answers both clusters' pods."""
    shop, near, far = stage(context)
    uids = {}
    for cluster in (near, far):
        uids[cluster] = serve(shop, cluster, "twice", 1)
        shop.export(cluster, "twice")
    for cluster in (near, far):
        shop.until_clusters(cluster, "twice", [near.name, far.name])
        for other in (near, far):
            name = pod_name("twice-0", other, "twice")
            until(f"{name} from {cluster.name}", 10, lambda at=cluster, to=name, pod=uids[other]["twice-0"]: (
                shop.callers[at].once(f"{to}.", TARGET, timeout="2s").get("pod") == pod))
        own, others = (asked(shop, cluster, pod_name("twice-0", at, "twice")) for at in (near, far))
        context.expect(asked(shop, cluster, "twice") == own | others, f"{cluster.name}: {own} and {others}")


@check("mcs-headless-in-time", kep="#exporting-services", level="bound", needs=NEEDS)
def headless_in_time(context):
    """A StatefulSet of 20 pods, both clusters with the same pod addresses: the name of each reaches that pod, by UID,
    from the other cluster; one that is replaced is reached again, and its address is the one it had."""
    shop, near, far = stage(context)
    name = "many"
    uids = serve(shop, far, name, MANY)
    begun, _ = shop.export(far, name)

    def reach(host):
        def reached():
            seen = shop.callers[near].once(f"{pod_name(host, far, name)}.", TARGET, timeout="1s")
            if seen.get("pod") not in (None, "", uids[host]):
                raise Wrong(f"{host} is {seen}")
            return seen.get("pod")
        until(f"{host} from {near.name}", 60, reached)
        return time.monotonic() - begun
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        took = list(pool.map(reach, sorted(uids)))
    context.figure(f"export to the last of {MANY} pods reached by its name", max(took), "s", "<= 10")
    until("all in the slices", 5, lambda: set(named(shop, near, far, name)) == set(uids))
    stand = named(shop, near, far, name)
    worst = 0.0
    for number in (0, 7, 19):
        worst = max(worst, replace(shop, near, far, name, f"{name}-{number}"))
    context.figure("a replaced pod ready to reached by its name", worst, "s", "<= 2")
    until("every pod at the address it had", 5, lambda: named(shop, near, far, name) == stand)

    shop.unexport(far, name)
    shop.until_no_import(near, name)
    wanted = "?labelSelector=portolan.dev%2Fservice%3D" + name
    until("no slices of its pods", 5, lambda: not near.get(f"{SLICES}/namespaces/{NAMESPACE}/endpointslices{wanted}")[
        "items"])
    until("the pods' Services gone", 60, lambda: not near.get(path("services") + wanted)["items"], every=0.5)
    scale(far, name, 0)


class Wrong(Exception):
    """Another pod answered: no time heals that."""


def replace(shop, near, far, name, host):
    """Deletes a pod; seconds from the moment its successor is ready to its name reaching that."""
    before = ready_pods(far, name, MANY)[host]
    far.delete(f"/api/v1/namespaces/{NAMESPACE}/pods/{host}")

    def successor():
        return (ready_pods(far, name, MANY) or {}).get(host, before) != before
    until(f"another {host}", 60, successor)
    at, uid = time.monotonic(), ready_pods(far, name, MANY)[host]

    def reached():
        # A call that nobody answers at once only hides when the next would have been answered.
        seen = shop.callers[near].once(f"{pod_name(host, far, name)}.", TARGET, timeout="400ms")
        if seen.get("pod") not in (None, "", uid):
            raise Failed(f"{host} is {seen}")
        return seen.get("pod")
    until(f"the new {host} from {near.name}", 30, reached)
    return time.monotonic() - at
