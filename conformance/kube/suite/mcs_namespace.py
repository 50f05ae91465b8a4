"""Namespaces: an import is where its namespace is."""

import time

from checks import check
from mcs import NAMESPACE, fqdn, path, stage
from tools import until

NEEDS = ("mesh", "shop")
IMPORTING = "#importing-services"


@check("mcs-namespace-missing", kep=IMPORTING, needs=NEEDS)
def missing(context):
    """A cluster without the namespace imports nothing, and makes no namespace; made later, it imports at once."""
    shop, near, far = stage(context)
    shop.make_namespace(far, "faraway")
    shop.offer(far, "stall", namespace="faraway", selector={"app": "nobody"})
    shop.until_import(far, "stall", lambda found: found["spec"].get("ips"), namespace="faraway")
    time.sleep(0.5)
    status, _ = near.api("GET", "/api/v1/namespaces/faraway")
    context.expect(status == 404, f"the namespace is there: {status}")
    shop.make_namespace(near, "faraway")
    made = time.monotonic()
    shop.until_import(near, "stall", lambda found: found["spec"].get("ips"), namespace="faraway")
    context.figure("namespace to import", time.monotonic() - made, "s", "<= 2")


@check("mcs-namespace-deleted", kep=IMPORTING, needs=NEEDS)
def deleted(context):
    """K07: a namespace deleted with its exports: withdrawn in every cluster, its names are NXDOMAIN."""
    shop, near, far = stage(context)
    for cluster in (near, far):
        shop.make_namespace(cluster, "closing")
    shop.offer(far, "sale", namespace="closing", selector={"app": "nobody"})
    for cluster in (near, far):
        shop.until_import(cluster, "sale", lambda found: found["spec"].get("ips"), namespace="closing")
        until(f"its name in {cluster.name}", 3,
              lambda at=cluster: shop.lookup(at, "sale", namespace="closing")["rcode"] == 0)
    far.delete("/api/v1/namespaces/closing")
    gone = time.monotonic()
    shop.until_no_import(near, "sale", namespace="closing")
    until("NXDOMAIN", 5, lambda: shop.lookup(near, "sale", namespace="closing")["rcode"] == 3)
    context.figure("deleted to withdrawn elsewhere", time.monotonic() - gone, "s", "<= 2")
    until("the namespace gone, nothing of ours in its way", 30,
          lambda: far.api("GET", "/api/v1/namespaces/closing")[0] == 404)
    seen = shop.lookup(far, fqdn("sale", "closing"))
    context.expect(seen["rcode"] == 3, f"in its own cluster: {seen}")


@check("mcs-namespace-of-importer-deleted", kep=IMPORTING, needs=NEEDS)
def importer_deleted(context):
    """An importing cluster's namespace deleted takes its imports along, the exporter's stay; it ends without delay."""
    shop, near, far = stage(context)
    for cluster in (near, far):
        shop.make_namespace(cluster, "leaving")
    shop.offer(far, "kept", namespace="leaving", selector={"app": "nobody"})
    for cluster in (near, far):
        shop.until_import(cluster, "kept", lambda found: found["spec"].get("ips"), namespace="leaving")
    near.delete("/api/v1/namespaces/leaving")
    until("the namespace gone", 30, lambda: near.api("GET", "/api/v1/namespaces/leaving")[0] == 404)
    context.expect(shop.find(far, "serviceimports", "kept", "leaving"), "the exporter's import went too")


@check("mcs-imports-not-for-users", kep=IMPORTING, level="SHOULD", needs=NEEDS)
def not_for_users(context):
    """Who may edit a namespace may neither create, change nor delete imports there."""
    _, near, _ = stage(context)
    account = {"kind": "ServiceAccount", "name": "editor", "namespace": NAMESPACE}
    near.apply([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "editor", "namespace": NAMESPACE}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
         "metadata": {"name": "editor", "namespace": NAMESPACE}, "subjects": [account],
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}}])
    editor = near.token(NAMESPACE, "editor")
    until("the role", 5, lambda: editor.request("GET", path("services"))[0] == 200)
    made = {"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport", "metadata": {"name": "forged"},
            "spec": {"type": "ClusterSetIP", "ips": ["192.0.2.1"], "ports": [{"port": 1}]}}
    for method, at, body in (("POST", path("serviceimports"), made), ("DELETE", path("serviceimports", "forged"), None),
                             ("PUT", path("serviceimports", "forged"), made)):
        status, _ = editor.request(method, at, body)
        context.expect(status == 403, f"{method} gives {status}")
