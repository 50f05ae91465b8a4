"""The cluster's own name, and the kinds that the product brings."""

import time

from checks import check
from mcs import MODES, stage
from tools import until

NEEDS = ("mesh", "shop")
PROPERTY = "/apis/about.k8s.io/v1beta1/clusterproperties"


def name_cluster(cluster, value):
    cluster.apply([{"apiVersion": "about.k8s.io/v1beta1", "kind": "ClusterProperty",
                    "metadata": {"name": "cluster.clusterset.k8s.io"}, "spec": {"value": value}}])


@check("mcs-cluster-property-differs", kep="#terminology", needs=NEEDS)
def property_differs(context):
    """A ClusterProperty that names another cluster than the certificate: nothing is written, and it is said;
    corrected, or equal, everything is written again. What was there stays and serves."""
    shop, near, far = stage(context)
    shop.offer(far, "steady")
    shop.until_from(near, "steady", {far})
    name_cluster(near, "somebody-else")
    try:
        time.sleep(1)
        shop.offer(far, "unwritten")
        shop.until_import(far, "unwritten")
        time.sleep(1.5)
        context.expect(shop.find(near, "serviceimports", "unwritten") is None, "an import was written")
        until("the log says so", 5, lambda: "ClusterProperty" in shop.mesh.logs(near, 200))
        shop.always_from(near, "steady", {far})
    finally:
        name_cluster(near, near.name)
    shop.until_from(near, "unwritten", {far})
    near.delete(f"{PROPERTY}/cluster.clusterset.k8s.io")
    shop.always_from(near, "unwritten", {far})


@check("mcs-kinds", kep="#design-details", modes=MODES, needs=NEEDS)
def kinds(context):
    """ServiceExport and ServiceImport are served as v1beta1, which is stored, and as v1alpha1, with one schema."""
    _, near, far = stage(context)
    for cluster in (near, far):
        for plural in ("serviceexports", "serviceimports"):
            found = cluster.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"
                                f"{plural}.multicluster.x-k8s.io")["spec"]
            versions = {one["name"]: one for one in found["versions"]}
            context.expect(found["scope"] == "Namespaced", f"{plural} is {found['scope']}")
            context.expect(set(versions) >= {"v1alpha1", "v1beta1"}, f"{plural} has {set(versions)}")
            context.expect(versions["v1beta1"]["storage"] and versions["v1alpha1"]["served"], f"{plural}: {versions}")
            context.expect(versions["v1alpha1"]["schema"] == versions["v1beta1"]["schema"], f"{plural} has two schemas")
            context.expect("status" in versions["v1beta1"].get("subresources", {}), f"{plural} has no status")


@check("mcs-kinds-v1alpha1", kep="#design-details", needs=NEEDS)
def old_version(context):
    """An export made as v1alpha1 counts like any other."""
    shop, near, far = stage(context)
    shop.serve(far, "elderly")
    far.apply([{"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceExport",
                "metadata": {"name": "elderly", "namespace": "shop"}}])
    shop.until_from(near, "elderly", {far})
    old = near.get("/apis/multicluster.x-k8s.io/v1alpha1/namespaces/shop/serviceimports/elderly")
    context.expect(old["spec"]["type"] == "ClusterSetIP", f"{old['spec']}")
