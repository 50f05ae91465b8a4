"""Exporting services: what a ServiceExport does, and what it says."""

import time

from checks import check
from mcs import ADMIN, MODES, NAMESPACE, WEB, behind, condition, path, stage
from tools import until

NEEDS = ("mesh", "shop")
EXPORTING, IMPORTING, TYPES = "#exporting-services", "#importing-services", "#service-types"


@check("mcs-export-makes-imports", kep=EXPORTING, modes=MODES, needs=NEEDS)
def export_makes_imports(context):
    """An export makes an import of the same name in every cluster with the namespace, its own included."""
    shop, near, far = stage(context)
    shop.offer(far, "plain")
    for cluster in (near, far):
        found = shop.until_import(cluster, "plain")
        context.expect(behind(found) == [far.name], f"{cluster.name}: behind it are {behind(found)}")
        shop.until_from(cluster, "plain", {far})
        shop.always_from(cluster, "plain", {far})


@check("mcs-export-conditions", kep=EXPORTING, needs=NEEDS)
def export_conditions(context):
    """A good export says Valid, Ready and no Conflict, for the generation that it has."""
    shop, near, _ = stage(context)
    shop.offer(near, "good")
    shop.until_condition(near, "good", "Valid", "True", "Valid")
    ready = shop.until_condition(near, "good", "Ready", "True")
    context.expect(ready["reason"] in ("Exported", "Ready"), f"Ready for {ready['reason']}")
    shop.until_condition(near, "good", "Conflict", "False", "NoConflicts")
    found = shop.find(near, "serviceexports", "good")
    for one in found["status"]["conditions"]:
        context.expect(one.get("observedGeneration") == found["metadata"]["generation"], f"{one}")
        context.expect(one.get("lastTransitionTime"), f"{one}")


@check("mcs-export-status-still", kep=EXPORTING, level="SHOULD", needs=NEEDS)
def export_status_still(context):
    """Where nothing changes nothing is written: neither exports, imports nor slices."""
    shop, near, far = stage(context)
    shop.offer(far, "still")
    for cluster in (near, far):
        shop.until_import(cluster, "still")
    shop.until_condition(far, "still", "Conflict", "False")
    time.sleep(1)

    def versions():
        things = [shop.find(far, "serviceexports", "still")]
        for cluster in (near, far):
            things += [shop.find(cluster, "serviceimports", "still"), shop.derived(cluster, "still")]
            things += shop.slices(cluster, "still")
        return [(thing["metadata"]["name"], thing["metadata"]["resourceVersion"]) for thing in things]
    before = versions()
    time.sleep(3)
    context.expect(versions() == before, f"{before} became {versions()}")


@check("mcs-export-before-service", kep=EXPORTING, needs=NEEDS)
def export_before_service(context):
    """K08: an export without Service is Valid=False NoService; the Service made, it is True and imported."""
    shop, near, far = stage(context)
    shop.export(far, "early")
    shop.until_condition(far, "early", "Valid", "False", "NoService")
    time.sleep(0.5)
    for cluster in (near, far):
        context.expect(shop.find(cluster, "serviceimports", "early") is None, f"{cluster.name} has an import")
        context.expect(shop.lookup(cluster, "early")["rcode"] == 3, f"{cluster.name} answers the name")
    shop.serve(far, "early")
    made = time.monotonic()
    shop.until_condition(far, "early", "Valid", "True", "Valid")
    shop.until_import(near, "early")
    context.figure("Service to import", time.monotonic() - made, "s", "<= 2")
    shop.until_from(near, "early", {far})


@check("mcs-export-service-deleted", kep=EXPORTING, needs=NEEDS)
def export_service_deleted(context):
    """The Service deleted, its export is Valid=False again and nobody imports it any longer."""
    shop, near, far = stage(context)
    shop.offer(far, "brief")
    shop.until_import(near, "brief")
    far.delete(path("services", "brief"))
    gone = time.monotonic()
    shop.until_no_import(near, "brief")
    context.figure("Service deleted to import gone", time.monotonic() - gone, "s", "<= 2")
    shop.until_condition(far, "brief", "Valid", "False", "NoService")


@check("mcs-export-external-name", kep=TYPES, needs=NEEDS)
def export_external_name(context):
    """A Service of type ExternalName is not exported: Valid=False InvalidServiceType."""
    shop, near, far = stage(context)
    shop.offer(far, "external", type="ExternalName", externalName="example.org")
    shop.until_condition(far, "external", "Valid", "False", "InvalidServiceType")
    shop.until_condition(far, "external", "Ready", "False")
    time.sleep(0.5)
    for cluster in (near, far):
        context.expect(shop.find(cluster, "serviceimports", "external") is None, f"{cluster.name} has an import")


@check("mcs-export-node-port-and-load-balancer", kep=TYPES, needs=NEEDS)
def export_other_types(context):
    """NodePort and LoadBalancer Services are imported as ClusterSetIP and reached there."""
    shop, near, far = stage(context)
    for name, kind in (("ported", "NodePort"), ("balanced", "LoadBalancer")):
        shop.offer(far, name, type=kind)
    for name in ("ported", "balanced"):
        found = shop.until_import(near, name)
        context.expect(found["spec"]["type"] == "ClusterSetIP", f"{name} is {found['spec']['type']}")
        shop.until_from(near, name, {far})


@check("mcs-not-exported", kep=EXPORTING, needs=NEEDS)
def not_exported(context):
    """A Service that nobody exports is neither imported nor named."""
    shop, near, far = stage(context)
    shop.serve(far, "private")
    shop.offer(far, "public")
    for cluster in (near, far):
        shop.until_import(cluster, "public")
        context.expect(shop.find(cluster, "serviceimports", "private") is None, f"{cluster.name} has an import")
        seen = shop.lookup(cluster, "private")
        context.expect(seen["rcode"] == 3 and not seen["answers"], f"{cluster.name} answers {seen}")


@check("mcs-same-name-not-exported", kep=EXPORTING, modes=("identical", "flat"), needs=NEEDS)
def same_name_not_exported(context):
    """A Service without an export is no part of the import, though another cluster exports its name."""
    shop, near, far = stage(context)
    shop.serve(near, "half")
    shop.offer(far, "half")
    for cluster in (near, far):
        found = shop.until_import(cluster, "half")
        context.expect(behind(found) == [far.name], f"{cluster.name}: {behind(found)}")
        shop.until_from(cluster, "half", {far})
        shop.always_from(cluster, "half", {far})


@check("mcs-unexport-one-of-two", kep=EXPORTING, needs=NEEDS)
def unexport_one(context):
    """One of two exports deleted: the import stays, with its addresses, and is served by the other."""
    shop, near, far = stage(context)
    shop.offer(near, "both")
    shop.offer(far, "both")
    before = shop.until_clusters(near, "both", [near.name, far.name])["spec"]["ips"]
    shop.unexport(near, "both")
    for cluster in (near, far):
        found = shop.until_clusters(cluster, "both", [far.name])
        context.expect(cluster is far or found["spec"]["ips"] == before, f"{before} became {found['spec']['ips']}")
        context.expect(found["status"].get("endpointSliceObjects") == "Present", f"{found['status']}")
    shop.until_from(near, "both", {far})
    sources = {one["metadata"]["labels"]["multicluster.kubernetes.io/source-cluster"]
               for one in shop.slices(near, "both")}
    context.expect(sources == {far.name}, f"slices are from {sources}")


@check("mcs-unexport-last", kep=IMPORTING, needs=NEEDS)
def unexport_last(context):
    """The last export deleted, imports, slices and names go everywhere; the Service itself stays."""
    shop, near, far = stage(context)
    shop.offer(far, "last")
    for cluster in (near, far):
        shop.until_import(cluster, "last")
    shop.unexport(far, "last")
    for cluster in (near, far):
        shop.until_no_import(cluster, "last")
        until(f"no slices of last in {cluster.name}", 2, lambda at=cluster: not shop.slices(at, "last"))
        until(f"no name of last in {cluster.name}", 2, lambda at=cluster: shop.lookup(at, "last")["rcode"] == 3)
    context.expect(shop.find(far, "services", "last"), "the Service is gone too")


@check("mcs-export-again", kep=EXPORTING, level="SHOULD", needs=NEEDS)
def export_again(context):
    """Exported, unexported and exported again within seconds: it is there and answers."""
    shop, near, far = stage(context)
    shop.offer(far, "again")
    shop.until_from(near, "again", {far})
    shop.unexport(far, "again")
    shop.until_no_import(near, "again")
    at, _ = shop.export(far, "again")
    shop.until_import(near, "again")
    context.figure("export to import", time.monotonic() - at, "s", "<= 2")
    shop.until_from(near, "again", {far})
    shop.always_from(near, "again", {far})


@check("mcs-export-labels", kep=EXPORTING, level="SHOULD", needs=NEEDS)
def export_labels(context):
    """spec.exportedLabels and exportedAnnotations stand on the import; keys of reserved domains never,
    with an Event, nor what the Service or the export carry themselves."""
    shop, near, far = stage(context)
    reserved = ("kubernetes.io", "a.k8s.io", "portolan.dev", "argoproj.io", "fluxcd.io", "helm.sh")
    bad = {f"{domain}/kept-here": "no" for domain in reserved}
    own = {"labels": {"own": "label"}, "annotations": {"own": "annotation"}}
    shop.offer(far, "labelled", metadata=own, export={
        "metadata": own, "exportedLabels": {"team": "blue", "example.org/tier": "1", **bad},
        "exportedAnnotations": {"example.org/note": "any text, at length", **bad}})
    for cluster in (near, far):
        meta = shop.until_import(cluster, "labelled")["metadata"]
        labels, annotations = meta.get("labels", {}), meta.get("annotations", {})
        context.expect(labels.get("team") == "blue" and labels.get("example.org/tier") == "1", f"labels {labels}")
        context.expect(annotations.get("example.org/note") == "any text, at length", f"annotations {annotations}")
        for key in [*bad, "own"]:
            context.expect(key not in labels and key not in annotations, f"{key} is on the import in {cluster.name}")

    def told():
        events = far.get(path("events") + "?fieldSelector=involvedObject.name%3Dlabelled")["items"]
        return [one for one in events if one["involvedObject"]["kind"] == "ServiceExport"
                and any(domain in one.get("message", "") for domain in reserved)]
    until("an Event about the keys left out", 5, told)


@check("mcs-export-labels-change", kep=EXPORTING, level="SHOULD", needs=NEEDS)
def export_labels_change(context):
    """Exported labels follow the export, and one taken away goes."""
    shop, near, far = stage(context)
    shop.offer(far, "relabelled", export={"exportedLabels": {"one": "1", "two": "2"}})
    shop.until_import(near, "relabelled", lambda found: found["metadata"].get("labels", {}).get("one") == "1")
    far.patch(path("serviceexports", "relabelled"), {"spec": {"exportedLabels": {"one": "uno", "two": None}}})

    def follows(found):
        labels = found["metadata"]["labels"]
        return labels.get("one") == "uno" and "two" not in labels
    shop.until_import(near, "relabelled", follows)


@check("mcs-export-bad-annotation", kep=EXPORTING, level="SHOULD", needs=NEEDS)
def bad_annotation(context):
    """An annotation that cannot be understood leaves the export Valid, which names it, and the default holds."""
    shop, near, far = stage(context)
    shop.offer(far, "misspelt", export={"metadata": {"annotations": {"portolan.dev/policy": "furthest"}}})
    said = shop.until_condition(far, "misspelt", "Valid", "True", "Valid")
    context.expect("portolan.dev/policy" in said["message"], f"{said}")
    shop.until_from(near, "misspelt", {far})


@check("mcs-service-name-with-digit", kep=EXPORTING, needs=NEEDS)
def name_with_digit(context):
    """A Service whose name begins with a digit is exported, where the API server allows such names."""
    shop, near, far = stage(context)
    status, _ = far.api("POST", f"/api/v1/namespaces/{NAMESPACE}/services?dryRun=All", {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "9lives"}, "spec": {"ports": [WEB]}})
    if status != 201:
        context.note("this API server takes no such names")
        return
    shop.offer(far, "9lives")
    shop.until_from(near, "9lives", {far})
    context.expect(shop.lookup(near, "9lives")["answers"], "its name is not answered")


@check("mcs-service-changes", kep=IMPORTING, needs=NEEDS)
def service_changes(context):
    """A port that the Service gains is in every import at once, with the same addresses, and is served."""
    shop, near, far = stage(context)
    shop.offer(far, "growing")
    before = shop.until_import(near, "growing")["spec"]["ips"]
    shop.serve(far, "growing", ports=(WEB, ADMIN))
    changed = time.monotonic()
    found = shop.until_import(near, "growing", lambda found: len(found["spec"]["ports"]) == 2)
    context.figure("Service changed to import changed", time.monotonic() - changed, "s", "<= 2")
    context.expect(found["spec"]["ips"] == before, f"{before} became {found['spec']['ips']}")
    shop.until_from(near, "growing", {far}, port=81)
    shop.always_from(near, "growing", {far}, port=80)
    context.expect(condition(found, "Ready"), "no condition Ready")
