"""Importing services: the fields of a ServiceImport, and how it lives."""

import time

from checks import check
from mcs import MODES, WEB, bare, behind, condition, has_ips, is_ready, path, stage
from tools import until

NEEDS = ("mesh", "shop")
IMPORTING, IP = "#importing-services", "#clustersetip"


@check("mcs-import-fields", kep=IMPORTING, needs=NEEDS)
def import_fields(context):
    """Ports, type, affinity and policies are the Service's, verbatim: an absent appProtocol stays absent."""
    shop, near, far = stage(context)
    ports = ({"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080},
             {"name": "grpc", "port": 90, "protocol": "TCP", "targetPort": 9090, "appProtocol": "kubernetes.io/h2c"},
             {"name": "dns", "port": 90, "protocol": "UDP", "targetPort": 8080},
             {"name": "sig", "port": 5060, "protocol": "SCTP", "targetPort": 8080})
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 77}}}
    shop.offer(far, "fields", ports=ports, **affinity, trafficDistribution="PreferSameZone",
               internalTrafficPolicy="Cluster")
    source = shop.find(far, "services", "fields")["spec"]
    for cluster in (near, far):
        found = shop.until_import(cluster, "fields", lambda found: has_ips(found) and behind(found))
        spec = found["spec"]
        context.expect(spec["ports"] == bare(source["ports"]), f"{cluster.name}: {spec['ports']}")
        context.expect(spec["type"] == "ClusterSetIP", f"{spec['type']}")
        for key in ("sessionAffinity", "sessionAffinityConfig", "internalTrafficPolicy", "trafficDistribution"):
            context.expect(spec.get(key) == source.get(key), f"{cluster.name}: {key} is {spec.get(key)}")
        context.expect(behind(found) == [far.name], f"{behind(found)}")
        until(f"endpointSliceObjects in {cluster.name}", 3, lambda at=cluster: shop.find(
            at, "serviceimports", "fields")["status"].get("endpointSliceObjects") == "Present")


@check("mcs-import-unnamed-port", kep=IMPORTING, needs=NEEDS)
def unnamed_port(context):
    """A single port without a name is imported without one, and served."""
    shop, near, far = stage(context)
    port = {key: value for key, value in WEB.items() if key != "name"}
    shop.offer(far, "nameless", ports=(port,))
    found = shop.until_import(near, "nameless")
    context.expect(found["spec"]["ports"] == [{"port": 80, "protocol": "TCP"}], f"{found['spec']['ports']}")
    shop.until_from(near, "nameless", {far})


@check("mcs-import-ips", kep=IP, modes=MODES, needs=NEEDS)
def import_ips(context):
    """An import has one address of each family that both the cluster and the export have, its ipFamilies in the
    same order; they are addresses of the cluster's services, and all answer."""
    shop, near, far = stage(context)
    shop.offer(far, "addressed")
    shop.offer(far, "six-first", ipFamilies=list(reversed(far.families)))
    for cluster in (near, far):
        for name in ("addressed", "six-first"):
            spec = shop.until_import(cluster, name)["spec"]
            families = ["IPv6" if ":" in ip else "IPv4" for ip in spec["ips"]]
            context.expect(families == spec["ipFamilies"], f"{cluster.name}: {spec['ips']} as {spec['ipFamilies']}")
            wanted = [family for family in cluster.families if family in far.families]
            context.expect(sorted(families) == sorted(wanted), f"{cluster.name}: {families}, not {wanted}")
            derived = shop.derived(cluster, name)["spec"]
            context.expect(derived["clusterIPs"] == spec["ips"], f"{cluster.name}: {derived['clusterIPs']}")
            context.expect(not derived.get("selector"), f"the derived Service selects {derived.get('selector')}")
            shop.until_from(cluster, name, {far})


@check("mcs-import-ips-constant", kep=IP, needs=NEEDS)
def ips_constant(context):
    """The clusterset addresses stay while exports come, go and change."""
    shop, near, far = stage(context)
    shop.offer(far, "constant")
    before = {cluster: shop.until_import(cluster, "constant")["spec"]["ips"] for cluster in (near, far)}
    shop.offer(near, "constant", ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack")
    shop.until_clusters(near, "constant", [near.name, far.name])
    shop.unexport(far, "constant")
    shop.until_clusters(far, "constant", [near.name])
    shop.serve(near, "constant", ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack",
               ports=({**WEB, "port": 8000},))
    for cluster in (near, far):
        found = shop.until_import(cluster, "constant", lambda found: found["spec"]["ports"][0]["port"] == 8000)
        context.expect(found["spec"]["ips"] == before[cluster], f"{cluster.name}: {before[cluster]} -> {found['spec']}")
        shop.until_from(cluster, "constant", {near}, port=8000)


@check("mcs-import-derived-lost", kep=IP, needs=NEEDS)
def derived_lost(context):
    """The derived Service deleted is made again with the same addresses, and serves."""
    shop, near, far = stage(context)
    shop.offer(far, "lost")
    before = shop.until_import(near, "lost")["spec"]["ips"]
    shop.until_from(near, "lost", {far})
    derived = shop.derived(near, "lost")["metadata"]
    near.delete(path("services", derived["name"]))
    deleted = time.monotonic()

    def again():
        made = shop.find(near, "services", derived["name"])
        return made and made["metadata"]["uid"] != derived["uid"] and made["spec"]["clusterIPs"]
    ips = until("the derived Service again", 5, again)
    context.figure("deleted to made again", time.monotonic() - deleted, "s", "<= 2")
    context.expect(ips == before, f"{before} became {ips}")
    shop.until_from(near, "lost", {far})
    context.expect(shop.find(near, "serviceimports", "lost")["spec"]["ips"] == before, "the import's changed")


@check("mcs-import-deleted", kep=IMPORTING, needs=NEEDS)
def import_deleted(context):
    """An import that somebody deletes, or changes, is put right with the same addresses."""
    shop, near, far = stage(context)
    shop.offer(far, "meddled")
    first = shop.until_import(near, "meddled")
    near.delete(path("serviceimports", "meddled"))

    def again(found):
        return found["metadata"]["uid"] != first["metadata"]["uid"] and is_ready(found)
    found = shop.until_import(near, "meddled", again)
    context.expect(found["spec"]["ips"] == first["spec"]["ips"], f"{first['spec']['ips']} -> {found['spec']['ips']}")
    near.patch(path("serviceimports", "meddled"), {"spec": {
        "ips": ["192.0.2.1"], "ports": [{"port": 1, "protocol": "TCP"}]}})
    shop.until_import(near, "meddled", lambda found: found["spec"] == first["spec"])
    until("slices again", 5, lambda: shop.slices(near, "meddled"))
    shop.until_from(near, "meddled", {far})


@check("mcs-import-derived-changed", kep=IMPORTING, level="SHOULD", needs=NEEDS)
def derived_changed(context):
    """A selector or port put on the derived Service by somebody is taken away again."""
    shop, near, far = stage(context)
    shop.offer(far, "tampered")
    shop.until_import(near, "tampered")
    derived = shop.derived(near, "tampered")
    at = path("services", derived["metadata"]["name"])
    near.patch(at, {"spec": {"selector": {"app": "nobody"}, "ports": [{"name": "x", "port": 1}]}})

    def right():
        spec = near.get(at)["spec"]
        return not spec.get("selector") and [port["port"] for port in spec["ports"]] == [80]
    until("the derived Service put right", 5, right)
    shop.until_from(near, "tampered", {far})


@check("mcs-import-without-endpoints", kep="#tracking-endpoints", needs=NEEDS)
def without_endpoints(context):
    """An export without a ready pod keeps import, address and name; there is no slice, and calls are refused."""
    shop, near, far = stage(context)
    shop.offer(far, "empty", selector={"app": "nobody"})
    for cluster in (near, far):
        found = shop.until_import(cluster, "empty", lambda found: has_ips(found) and found.get(
            "status", {}).get("endpointSliceObjects") == "Absent")
        context.expect(not shop.slices(cluster, "empty"), f"{cluster.name} has slices")
        context.expect(shop.lookup(cluster, "empty")["answers"], f"{cluster.name} does not answer its name")
        ip = found["spec"]["ips"][0]
        # kube-proxy refuses; the lab's nodes say so before it, as they have no default route.
        until(f"a refusal in {cluster.name}", 5, lambda at=cluster, to=ip: any(
            word in shop.callers[at].once(to, 80, timeout="1s").get("error", "") for word in ("refused", "unreachable")))
    far.patch(path("services", "empty"), {"spec": {"selector": {"app": "echo"}}})
    shop.until_import(near, "empty", lambda found: found["status"].get("endpointSliceObjects") == "Present")
    shop.until_from(near, "empty", {far})


@check("mcs-import-foreign-service", kep=IP, needs=NEEDS)
def foreign_service(context):
    """A Service of somebody else under the derived name is not touched; the import says what stands in its way."""
    shop, near, far = stage(context)
    shop.offer(far, "taken")
    shop.until_import(near, "taken")
    name = shop.derived(near, "taken")["metadata"]["name"]
    shop.unexport(far, "taken")
    shop.until_no_import(near, "taken")
    near.delete(path("services", name))
    until("the derived Service gone", 3, lambda: not shop.find(near, "services", name))
    shop.serve(near, name)
    theirs = shop.find(near, "services", name)
    shop.export(far, "taken")
    found = shop.until_import(near, "taken", lambda found: condition(found, "Ready").get("status") == "False")
    context.expect(name in condition(found, "Ready")["message"], f"{condition(found, 'Ready')}")
    now = shop.find(near, "services", name)
    context.expect(now["metadata"]["resourceVersion"] == theirs["metadata"]["resourceVersion"], f"changed: {now}")
    until("an Event about it", 5, lambda: [
        one for one in near.get(path("events"))["items"] if name in (one["involvedObject"]["name"], one["message"])])
    shop.unexport(far, "taken")
    near.delete(path("services", name))


@check("mcs-import-foreign-import", kep=IMPORTING, needs=NEEDS)
def foreign_import(context):
    """An import that somebody else made is left as it is."""
    shop, near, far = stage(context)
    near.apply([{"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
                 "metadata": {"name": "theirs", "namespace": "shop", "labels": {"made-by": "hand"}},
                 "spec": {"type": "ClusterSetIP", "ips": ["192.0.2.9"], "ports": [{"port": 7, "protocol": "TCP"}]}}])
    before = shop.find(near, "serviceimports", "theirs")
    shop.offer(far, "theirs")
    shop.until_import(far, "theirs")
    time.sleep(1)
    now = shop.find(near, "serviceimports", "theirs")
    context.expect(now["spec"] == before["spec"] and now["metadata"]["uid"] == before["metadata"]["uid"], f"{now}")
    shop.unexport(far, "theirs")
    shop.until_no_import(far, "theirs")
    context.expect(shop.find(near, "serviceimports", "theirs"), "it went with the export")
