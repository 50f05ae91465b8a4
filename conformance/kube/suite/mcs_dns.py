"""Names of the cluster set, asked through CoreDNS from a pod: the KEP's specification.md, section 2."""

from checks import check
from mcs import ADMIN, MODES, WEB, fqdn, has_ips, stage
from tools import until

NEEDS = ("mesh", "shop")
SPEC = "/specification.md"
PORTS = (WEB, ADMIN, {"name": "dns", "port": 53, "protocol": "TCP", "targetPort": 8080},
         {"name": "dns-udp", "port": 53, "protocol": "UDP", "targetPort": 8080})


def made(shop, near, far):
    """A service of the second cluster, once in a lab."""
    if not shop.find(far, "serviceexports", "named"):
        shop.offer(far, "named", ports=PORTS)
    for cluster in (near, far):
        shop.until_import(cluster, "named", has_ips)
        until(f"the name in {cluster.name}", 5, lambda at=cluster: shop.lookup(at, "named")["answers"])


@check("mcs-dns-version", kep=f"{SPEC}#22---record-for-schema-version", modes=MODES, needs=NEEDS)
def dns_version(context):
    """TXT dns-version of the zone is the version of the schema."""
    shop, near, far = stage(context)
    for cluster in (near, far):
        seen = shop.lookup(cluster, "dns-version.clusterset.local", "TXT")
        context.expect(seen["answers"] == ["1.0.0"], f"{cluster.name}: {seen}")


@check("mcs-dns-addresses", kep=f"{SPEC}#231----record", modes=MODES, needs=NEEDS)
def dns_addresses(context):
    """A and AAAA of an import are its clusterset addresses, in every cluster, whatever the letters' case."""
    shop, near, far = stage(context)
    made(shop, near, far)
    for cluster in (near, far):
        ips = shop.until_import(cluster, "named", has_ips)["spec"]["ips"]
        for kind, colon in (("A", False), ("AAAA", True)):
            wanted = [ip for ip in ips if (":" in ip) == colon]
            for name in (fqdn("named"), fqdn("named").upper()):
                seen = shop.lookup(cluster, name, kind)
                context.expect(seen["rcode"] == 0 and seen["answers"] == wanted, f"{cluster.name}: {kind} {seen}")
                context.expect(not wanted or seen["ttl"] <= 30, f"TTL {seen['ttl']} s")


@check("mcs-dns-srv", kep=f"{SPEC}#232----records", modes=MODES, needs=NEEDS)
def dns_srv(context):
    """Each named port has an SRV record with its number, whose target is the service name."""
    shop, near, far = stage(context)
    made(shop, near, far)
    for cluster in (near, far):
        for owner, port in (("_http._tcp", 80), ("_admin._tcp", 81), ("_dns._tcp", 53), ("_dns-udp._udp", 53)):
            seen = shop.lookup(cluster, f"{owner}.{fqdn('named')}", "SRV")
            got = [answer.split()[2:] for answer in seen["answers"]]
            context.expect(got == [[str(port), f"{fqdn('named')}."]], f"{cluster.name}: {owner} {seen}")
        for owner in ("_http._udp", "_nobody._tcp"):
            seen = shop.lookup(cluster, f"{owner}.{fqdn('named')}", "SRV")
            context.expect(seen["rcode"] == 3, f"{cluster.name}: {owner} {seen}")


@check("mcs-dns-srv-of-service", kep=f"{SPEC}#232----records", level="SHOULD", needs=NEEDS)
def dns_srv_of_service(context):
    """SRV at the service name has one record per port number: a TCP and a UDP port of one number give one."""
    shop, near, far = stage(context)
    made(shop, near, far)
    seen = shop.lookup(near, "named", "SRV")
    got = sorted(int(answer.split()[2]) for answer in seen["answers"])
    context.expect(got == [53, 80, 81], f"{seen}")
    context.expect(all(answer.split()[3] == f"{fqdn('named')}." for answer in seen["answers"]), f"{seen}")


@check("mcs-dns-unnamed-port", kep=f"{SPEC}#232----records", needs=NEEDS)
def dns_unnamed_port(context):
    """An unnamed port has no SRV record of its own."""
    shop, near, far = stage(context)
    shop.offer(far, "no-port-name", ports=({"port": 80, "protocol": "TCP", "targetPort": 8080},))
    shop.until_import(near, "no-port-name")
    until("its name", 3, lambda: shop.lookup(near, "no-port-name")["answers"])
    for owner in ("_http._tcp", "_80._tcp", "_tcp"):
        seen = shop.lookup(near, f"{owner}.{fqdn('no-port-name')}", "SRV")
        context.expect(not seen["answers"], f"{owner}: {seen}")


@check("mcs-dns-no-cluster-names", kep=f"{SPEC}#234---records-that-should-not-exist-for-a-service-with-clustersetip",
       needs=NEEDS)
def dns_no_cluster_names(context):
    """There is no name for a service in one particular cluster."""
    shop, near, far = stage(context)
    made(shop, near, far)
    for cluster in (near, far):
        for source in (near.name, far.name, "portolan"):
            for kind in ("A", "AAAA", "SRV"):
                seen = shop.lookup(cluster, f"{source}.{fqdn('named')}", kind)
                context.expect(seen["rcode"] == 3 and not seen["answers"], f"{cluster.name}: {source} {seen}")


@check("mcs-dns-absent-names", kep="#dns", modes=MODES, needs=NEEDS)
def dns_absent(context):
    """Names of nothing are NXDOMAIN at once; a name that exists has no error for other types."""
    shop, near, far = stage(context)
    made(shop, near, far)
    worst = 0.0
    for cluster in (near, far):
        for name in (fqdn("nothing"), fqdn("named", "nowhere"), "named.shop.pod.clusterset.local",
                     "clusterset.local.clusterset.local", "derived.named.shop.svc.clusterset.local"):
            seen = shop.lookup(cluster, name)
            context.expect(seen["rcode"] == 3 and not seen["answers"], f"{cluster.name}: {name} {seen}")
            worst = max(worst, seen["ms"])
        for name, kind in ((fqdn("named"), "TXT"), ("shop.svc.clusterset.local", "A"), ("svc.clusterset.local", "A")):
            seen = shop.lookup(cluster, name, kind)
            context.expect(seen["rcode"] == 0 and not seen["answers"], f"{cluster.name}: {name} {kind} {seen}")
        for kind in ("SOA", "NS"):
            seen = shop.lookup(cluster, "clusterset.local", kind)
            context.expect(seen["rcode"] == 0 and seen["answers"], f"{cluster.name}: {kind} {seen}")
    context.figure("slowest NXDOMAIN", worst, "ms", "<= 500")


@check("mcs-dns-no-ptr", kep="#no-ptr-records-necessary-for-multicluster-dns", needs=NEEDS)
def dns_no_ptr(context):
    """The address of an import has no PTR record in the zone of the cluster set."""
    shop, near, far = stage(context)
    made(shop, near, far)
    ip = shop.until_import(near, "named", has_ips)["spec"]["ips"][0]
    seen = shop.lookup(near, ".".join(reversed(ip.split("."))) + ".in-addr.arpa", "PTR")
    context.expect(not any("clusterset" in answer for answer in seen["answers"]), f"{seen}")


@check("mcs-dns-cluster-local", kep="#dns", modes=MODES, needs=NEEDS)
def dns_cluster_local(context):
    """cluster.local is as it was: the exporter's own Service has its own address there, importers have no such name."""
    shop, near, far = stage(context)
    made(shop, near, far)
    own = shop.find(far, "services", "named")["spec"]["clusterIPs"]
    for ip in own:
        seen = shop.lookup(far, fqdn("named", zone="cluster.local"), "AAAA" if ":" in ip else "A")
        context.expect(seen["answers"] == [ip], f"{far.name}: {seen}")
    seen = shop.lookup(near, fqdn("named", zone="cluster.local"))
    context.expect(seen["rcode"] == 3, f"{near.name}: {seen}")
    imported = shop.until_import(far, "named", has_ips)["spec"]["ips"]
    context.expect(not set(imported) & set(own), f"the clusterset address is the Service's own, {own}")
    context.expect(shop.find(near, "services", "named") is None, f"{near.name} has a Service of that name")
    managers = {one["manager"] for one in shop.find(far, "services", "named")["metadata"]["managedFields"]}
    context.expect(managers == {"lab"}, f"the Service was written to by {managers}")
