"""What the KEP asks for and this part does not bring yet: listed, so that nobody takes it for proven."""

from checks import check

HEADLESS = "headless services come in the second part"
SPEC = "/specification.md"


def later(name, kep, why, about, level="MUST"):
    def nothing(context):
        raise NotImplementedError
    nothing.__doc__ = about
    check(name, kep=kep, level=level, not_yet=why)(nothing)


later("mcs-headless-import", "#service-types", HEADLESS,
      "A headless Service is imported with type Headless and no address.")
later("mcs-headless-addresses", f"{SPEC}#241----records", HEADLESS,
      "A and AAAA of a headless name are its ready endpoints.")
later("mcs-headless-pod-names", f"{SPEC}#241----records", HEADLESS,
      "<hostname>.<clusterid>.<service> is the pod's address.")
later("mcs-headless-srv", f"{SPEC}#242----records", HEADLESS, "SRV of a headless name: one for each endpoint and port.")
later("mcs-headless-nothing-ready", f"{SPEC}#241----records", HEADLESS,
      "A headless name with nothing ready is NXDOMAIN.", "SHOULD")
later("mcs-headless-no-cluster-names",
      f"{SPEC}#244---records-that-should-not-exist-for-a-multicluster-headless-service", HEADLESS,
      "There is no name for all endpoints of one cluster.", "SHOULD")
later("mcs-headless-slices", "#using-endpointslice-objects-to-track-endpoints", HEADLESS, "Hostnames stand in the slices.")
