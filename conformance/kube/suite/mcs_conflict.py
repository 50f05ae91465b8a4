"""Conflicts between the exports of one name: the oldest wins, in every cluster alike, and all exports say so.

All cases are made at once before the first check: the first cluster's exports, then, in a later second of
the creationTimestamp, the second one's, whose name would win a tie.
"""

import concurrent.futures
import time

from checks import check, prepare
from mcs import ADMIN, WEB, bare, behind, has_ips, stage

NEEDS = ("mesh", "shop", "conflicts")
POLICY, PORTS = "#constraints-and-conflict-resolution", "#service-port"
AFFINE = {"sessionAffinity": "ClientIP"}
LONGER = {**AFFINE, "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}
FOUR = {"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}
SIX = {"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}
HEADLESS = {"clusterIP": "None"}
UDP = {"name": "udp", "port": 80, "protocol": "UDP", "targetPort": 8080}


def port(**changes):
    return {**WEB, **changes}


# Name: what the first (and oldest) exports, what the second does.
CASES = {
    "same": ({}, {}),
    "more-ports": ({}, {"ports": (WEB, ADMIN)}),
    "port-name": ({}, {"ports": (port(port=8000),)}),
    "port-number": ({}, {"ports": (port(name="web"),)}),
    "port-protocol": ({}, {"ports": (WEB, UDP)}),
    "app-protocol": ({}, {"ports": (port(appProtocol="http"),)}),
    "headless-second": ({}, HEADLESS),
    "headless-first": (HEADLESS, {}),
    "affinity": (AFFINE, {}),
    "affinity-config": (LONGER, AFFINE),
    "labels": ({"export": {"exportedLabels": {"a": "1"}}}, {"export": {"exportedLabels": {"a": "1", "b": "2"}}}),
    "annotations": ({"export": {"exportedAnnotations": {"a": "1"}}}, {}),
    "families": (FOUR, SIX),
    "traffic-policy": ({"internalTrafficPolicy": "Local"}, {}),
    "distribution": ({}, {"trafficDistribution": "PreferSameZone"}),
    "several": ({}, {**AFFINE, "ports": (ADMIN,), "export": {"exportedLabels": {"a": "1"}}}),
    "settled": (AFFINE, {}),
    "inherited": ({"ports": (WEB,)}, {**LONGER, "ports": (WEB, ADMIN)}),
}


@prepare("conflicts")
def conflicts(context):
    """All cases, once in a lab."""
    shop, *pair = stage(context)
    for turn, cluster in enumerate(pair):
        if turn:
            time.sleep(1.05)  # The timestamps by which exports are ordered have whole seconds.
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda case, at=cluster, n=turn: shop.offer(at, f"c-{case[0]}", **case[1][n]), CASES.items()))


def clash(context, name, reasons, field=None):
    """Both exports say so, and name field, winner, why and how many; the imports, by cluster."""
    shop, near, far = stage(context)
    for cluster in (near, far):
        said = shop.until_condition(cluster, f"c-{name}", "Conflict", "True" if reasons else "False",
                                    ",".join(reasons) or "NoConflicts")
        for word in (field, near.name, "oldest", "1 of 2") if field else ():
            context.expect(word in said["message"], f"{cluster.name}: no {word!r} in {said['message']!r}")
    both = sorted([near.name, far.name])
    return [shop.until_import(cluster, f"c-{name}", lambda found: behind(found) == both) for cluster in (near, far)]


def ports_are(context, imports, wanted):
    for found in imports:
        context.expect(found["spec"]["ports"] == bare(wanted), f"{found['spec']['ports']}")


@check("mcs-conflict-none", kep=POLICY, needs=NEEDS)
def none(context):
    """Equal exports conflict in nothing, and one import stands for both."""
    ports_are(context, clash(context, "same", []), [WEB])


@check("mcs-conflict-ports-union", kep=PORTS, needs=NEEDS)
def ports_union(context):
    """Different ports are joined, the oldest export's first; PortConflict though none is in another's way.
    A cluster serves exactly the ports that it exports."""
    shop, near, far = stage(context)
    imports = clash(context, "more-ports", ["PortConflict"], "ports")
    ports_are(context, imports, [WEB, ADMIN])
    for cluster in (near, far):
        shop.until_from(cluster, "c-more-ports", {far}, port=81)
        shop.always_from(cluster, "c-more-ports", {far}, port=81)
        shop.always_from(cluster, "c-more-ports", {cluster}, port=80)


@check("mcs-conflict-port-name", kep=PORTS, needs=NEEDS)
def port_name(context):
    """Of two ports with one name the oldest export's is taken; the other's number is served by nobody."""
    ports_are(context, clash(context, "port-name", ["PortConflict"], "ports"), [WEB])


@check("mcs-conflict-port-number", kep=PORTS, needs=NEEDS)
def port_number(context):
    """Of two ports with one protocol and number the oldest export's name is taken, and both clusters serve it."""
    shop, near, far = stage(context)
    ports_are(context, clash(context, "port-number", ["PortConflict"], "ports"), [WEB])
    for cluster in (near, far):
        shop.until_from(cluster, "c-port-number", {cluster})
        shop.always_from(cluster, "c-port-number", {cluster})


@check("mcs-conflict-port-protocol", kep=PORTS, needs=NEEDS)
def port_protocol(context):
    """A TCP and a UDP port of one number are two ports."""
    ports_are(context, clash(context, "port-protocol", ["PortConflict"], "ports"), [WEB, UDP])


@check("mcs-conflict-app-protocol", kep=PORTS, needs=NEEDS)
def app_protocol(context):
    """An appProtocol that only one export has is a PortConflict; the oldest's absence holds."""
    ports_are(context, clash(context, "app-protocol", ["PortConflict"], "ports"), [WEB])


@check("mcs-conflict-headlessness", kep="#headlessness", needs=NEEDS)
def headlessness(context):
    """ClusterSetIP against headless: the oldest decides, in every cluster alike."""
    for found in clash(context, "headless-second", ["TypeConflict"], "type"):
        context.expect(found["spec"]["type"] == "ClusterSetIP", f"{found['spec']}")
    for found in clash(context, "headless-first", ["TypeConflict"], "type"):
        context.expect(found["spec"]["type"] == "Headless" and not has_ips(found), f"{found['spec']}")


@check("mcs-conflict-session-affinity", kep="#session-affinity", needs=NEEDS)
def session_affinity(context):
    """The oldest export's session affinity is taken, and its configuration."""
    for found in clash(context, "affinity", ["SessionAffinityConflict"], "sessionAffinity"):
        context.expect(found["spec"]["sessionAffinity"] == "ClientIP", f"{found['spec']}")
    for found in clash(context, "affinity-config", ["SessionAffinityConfigConflict"], "sessionAffinityConfig"):
        context.expect(found["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] == 60, f"{found['spec']}")


@check("mcs-conflict-labels", kep=POLICY, needs=NEEDS)
def labels_and_annotations(context):
    """Exported labels and annotations are compared as whole maps; the oldest map is taken entire."""
    for found in clash(context, "labels", ["LabelsConflict"], "exportedLabels"):
        labels = found["metadata"]["labels"]
        context.expect(labels.get("a") == "1" and "b" not in labels, f"{labels}")
    for found in clash(context, "annotations", ["AnnotationsConflict"], "exportedAnnotations"):
        context.expect(found["metadata"]["annotations"].get("a") == "1", f"{found['metadata']}")


@check("mcs-conflict-families", kep=POLICY, needs=NEEDS)
def families(context):
    """Different families are an IPFamilyConflict; through the import pods of both are reached."""
    shop, near, far = stage(context)
    clash(context, "families", ["IPFamilyConflict"], "ipFamilies")
    for cluster in (near, far):
        shop.until_import(cluster, "c-families")
        shop.until_from(cluster, "c-families", {near, far})


@check("mcs-conflict-policies", kep=POLICY, needs=NEEDS)
def policies(context):
    """The oldest export's internalTrafficPolicy and trafficDistribution are taken."""
    for found in clash(context, "traffic-policy", ["InternalTrafficPolicyConflict"], "internalTrafficPolicy"):
        context.expect(found["spec"]["internalTrafficPolicy"] == "Local", f"{found['spec']}")
    for found in clash(context, "distribution", ["TrafficDistributionConflict"], "trafficDistribution"):
        context.expect("trafficDistribution" not in found["spec"], f"{found['spec']}")


@check("mcs-conflict-several", kep=POLICY, needs=NEEDS)
def several(context):
    """Several conflicts stand in one condition, their reasons joined by commas."""
    for found in clash(context, "several", ["PortConflict", "SessionAffinityConflict", "LabelsConflict"], "ports"):
        context.expect(found["spec"]["sessionAffinity"] == "None", f"{found['spec']}")


@check("mcs-conflict-settled", kep=POLICY, needs=NEEDS)
def settled(context):
    """The second export made equal, the conflict is over in both clusters, and says when."""
    shop, near, far = stage(context)
    clash(context, "settled", ["SessionAffinityConflict"], "sessionAffinity")
    before = shop.until_condition(near, "c-settled", "Conflict", "True")["lastTransitionTime"]
    shop.serve(far, "c-settled", **AFFINE)
    for cluster in (near, far):
        shop.until_condition(cluster, "c-settled", "Conflict", "False", "NoConflicts")
    after = shop.until_condition(near, "c-settled", "Conflict", "False")["lastTransitionTime"]
    context.expect(after > before, f"lastTransitionTime {before} then {after}")


@check("mcs-conflict-inherited", kep=POLICY, needs=NEEDS)
def inherited(context):
    """The oldest export deleted, the next oldest's fields are the import's, its addresses unchanged."""
    shop, near, far = stage(context)
    first = clash(context, "inherited", ["PortConflict", "SessionAffinityConflict"], "ports")
    shop.unexport(near, "c-inherited")
    for cluster, before in zip((near, far), first):
        found = shop.until_import(cluster, "c-inherited", lambda found: behind(found) == [far.name])
        context.expect(found["spec"]["sessionAffinity"] == "ClientIP", f"{found['spec']}")
        ports_are(context, [found], [WEB, ADMIN])
        context.expect(found["spec"]["ips"] == before["spec"]["ips"], f"{before['spec']['ips']} -> {found['spec']}")
    shop.until_condition(far, "c-inherited", "Conflict", "False", "NoConflicts")


@check("mcs-conflict-tie", kep=POLICY, level="SHOULD", needs=NEEDS)
def tie(context):
    """Of exports of the same second the first cluster by name wins, in every cluster alike."""
    shop, near, far = stage(context)
    for turn in range(5):
        name = f"tied-{turn}"
        for cluster in (near, far):
            shop.serve(cluster, name, **(AFFINE if cluster is far else {}))
        time.sleep(1 - time.time() % 1)  # Both in one second.
        for cluster in (near, far):
            shop.export(cluster, name)
        times = {shop.find(c, "serviceexports", name)["metadata"]["creationTimestamp"] for c in (near, far)}
        if len(times) == 1:
            break
    context.expect(len(times) == 1, "no two exports fell into one second")
    first = min((near, far), key=lambda cluster: cluster.name)
    for cluster in (near, far):
        shop.until_condition(cluster, name, "Conflict", "True", "SessionAffinityConflict")
        found = shop.until_clusters(cluster, name, [near.name, far.name])
        wanted = "ClientIP" if first is far else "None"
        context.expect(found["spec"]["sessionAffinity"] == wanted, f"{cluster.name}: {found['spec']}")
