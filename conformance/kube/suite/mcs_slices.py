"""EndpointSlices of imports: the KEP leaves them to the implementation, and says how they look if they exist."""

import time

from checks import check
from mcs import ADMIN, MODES, WEB, path, stage
from tools import until

NEEDS = ("mesh", "shop")
SLICES = "#using-endpointslice-objects-to-track-endpoints"
SOURCE, NAME = "multicluster.kubernetes.io/source-cluster", "multicluster.kubernetes.io/service-name"
MANAGER, SERVICE = "endpointslice.kubernetes.io/managed-by", "kubernetes.io/service-name"


def made(shop, near, far):
    """A service that both clusters export, once in a lab."""
    if not shop.find(near, "serviceexports", "sliced"):
        for cluster in (near, far):
            shop.offer(cluster, "sliced", ports=(WEB, ADMIN))
    both = {near.name, far.name}
    for cluster in (near, far):
        shop.until_clusters(cluster, "sliced", both)
        until(f"slices in {cluster.name}", 5, lambda at=cluster: {
            one["metadata"]["labels"][SOURCE] for one in shop.slices(at, "sliced")} == both)


@check("mcs-slices-labels", kep=SLICES, modes=MODES, needs=NEEDS)
def slice_labels(context):
    """Each slice names its service, its one source cluster and who manages it, and belongs to the import."""
    shop, near, far = stage(context)
    made(shop, near, far)
    for cluster in (near, far):
        owner = shop.find(cluster, "serviceimports", "sliced")["metadata"]["uid"]
        for one in shop.slices(cluster, "sliced"):
            meta = one["metadata"]
            context.expect(meta["labels"][NAME] == "sliced", f"{meta}")
            context.expect(meta["labels"].get(MANAGER, "endpointslice-controller.k8s.io").find("k8s.io") < 0, f"{meta}")
            context.expect(SERVICE not in meta["labels"], f"kube-proxy would take {meta['name']}")
            owners = [(ref["kind"], ref["name"], ref["uid"]) for ref in meta.get("ownerReferences", [])]
            context.expect(owners == [("ServiceImport", "sliced", owner)], f"owners {owners}")


@check("mcs-slices-families", kep=SLICES, modes=MODES, needs=NEEDS)
def slice_families(context):
    """For each source cluster and each family of the import there is a slice with at least one ready endpoint,
    and its ports are those of the import by name."""
    shop, near, far = stage(context)
    made(shop, near, far)
    for cluster in (near, far):
        spec = shop.find(cluster, "serviceimports", "sliced")["spec"]

        def complete(at=cluster, families=spec["ipFamilies"]):
            found = {(one["metadata"]["labels"][SOURCE], one["addressType"]) for one in shop.slices(at, "sliced")
                     if any(e["conditions"].get("ready") for e in one["endpoints"])}
            return found == {(other.name, family) for other in (near, far) for family in families}
        until(f"a slice per source and family in {cluster.name}", 5, complete)
        for one in shop.slices(cluster, "sliced"):
            context.expect(one["endpoints"], f"{one['metadata']['name']} is empty")
            context.expect({port["name"] for port in one["ports"]} <= {"http", "admin"}, f"{one['ports']}")


@check("mcs-slices-one-source", kep=SLICES, modes=MODES, needs=NEEDS)
def slice_sources(context):
    """Each address of a slice, called at its port, leads to pods of its source cluster: its own directly, others
    by a way that each node has."""
    shop, near, far = stage(context)
    made(shop, near, far)
    shop.offer(far, "sliced-far")
    shop.until_from(near, "sliced-far", {far})
    for cluster, name, source in ((near, "sliced", near), (far, "sliced", far), (near, "sliced-far", far)):
        called = 0
        for one in shop.slices(cluster, name):
            if one["metadata"]["labels"][SOURCE] == source.name:
                for endpoint in one["endpoints"]:
                    seen = shop.callers[cluster].once(endpoint["addresses"][0], one["ports"][0]["port"])
                    context.expect(shop.who(seen) is source, f"{one['metadata']['name']} in {cluster.name}: {seen}")
                    called += 1
        context.expect(called, f"{cluster.name} has no endpoint of {name} in {source.name}")


@check("mcs-slices-derived", kep=SLICES, needs=NEEDS)
def derived_slices(context):
    """The slices that kube-proxy reads carry no label of the MCS API, and at most 100 endpoints each."""
    shop, near, far = stage(context)
    made(shop, near, far)
    for cluster in (near, far):
        derived = shop.derived(cluster, "sliced")["metadata"]["name"]
        wanted = f"?labelSelector={SERVICE.replace('/', '%2F')}%3D{derived}"
        found = cluster.get(path("endpointslices") + wanted)["items"]
        context.expect(found, f"{derived} has no slices in {cluster.name}")
        for one in found:
            strange = [key for key in one["metadata"]["labels"] if key.startswith("multicluster.")]
            context.expect(not strange and len(one["endpoints"]) <= 100, f"{one['metadata']['name']}: {strange}")


@check("mcs-slices-go-with-export", kep=SLICES, needs=NEEDS)
def slices_go(context):
    """One of two exports deleted, its slices go everywhere and the other's stay."""
    shop, near, far = stage(context)
    for cluster in (near, far):
        shop.offer(cluster, "thinned")
    for cluster in (near, far):
        shop.until_clusters(cluster, "thinned", [near.name, far.name])
    at, _ = shop.unexport(far, "thinned")
    for cluster in (near, far):
        until(f"slices of {near.name} alone in {cluster.name}", 5, lambda where=cluster: {
            one["metadata"]["labels"][SOURCE] for one in shop.slices(where, "thinned")} == {near.name})
    context.figure("unexport to its slices gone", time.monotonic() - at, "s", "<= 2")


@check("mcs-slices-meddled", kep=SLICES, level="SHOULD", needs=NEEDS)
def slices_meddled(context):
    """A slice that somebody changes or deletes is put right."""
    shop, near, far = stage(context)
    made(shop, near, far)
    one, two = sorted(shop.slices(near, "sliced"), key=lambda one: one["metadata"]["name"])[:2]
    near.patch(path("endpointslices", one["metadata"]["name"]), {"endpoints": [], "ports": []})
    near.delete(path("endpointslices", two["metadata"]["name"]))

    def right():
        now = {at["metadata"]["name"]: at for at in shop.slices(near, "sliced")}
        return all(name["metadata"]["name"] in now and now[name["metadata"]["name"]]["endpoints"] == name["endpoints"]
                   for name in (one, two))
    until("both put right", 5, right)
