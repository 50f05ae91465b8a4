"""A zone with a name of every kind, as manifests: what the differential is asked about."""

import json

from agent import service, slice_of

# So long that the longest pod's name below the longest service has just the 253 octets that DNS allows.
CLUSTER = "paris-of-a-name-so-long-that-it-ends-the"
LONG = ("n" * 63, "s" * 63)
PORTS = (("http", "TCP", 80), ("quic", "UDP", 80), ("assoc", "SCTP", 38412))


def _pods(count, start):
    return [f"10.{start}.{n // 250}.{n % 250 + 1}" for n in range(count)]


def manifests():
    """All objects, and how many imports they make."""
    objects = []

    def add(namespace, name, endpoints=(), ports=PORTS, **more):
        objects.extend(service(namespace, name, ports=ports, **more))
        for part, family in enumerate((".", ":")):
            of_family = [endpoint for endpoint in endpoints if family in endpoint[0]]
            # 100 endpoints are what Kubernetes puts into a slice.
            for at in range(0, len(of_family), 100):
                objects.append(slice_of(namespace, name, f"{part}-{at}", of_family[at:at + 100], ports))

    one = [("10.1.0.1", None)]
    for n in range(150):
        add(f"team-{n % 12}", f"web-{n}", one, ports=PORTS[:1 + n % 3])
    for n in range(30):
        add("dual", f"both-{n}", [*one, ("fd00:1::1", None)], families=("IPv4", "IPv6"))
        add("six", f"only-{n}", [("fd00:1::2", None)], families=("IPv6",))
    add("shop", "many-ports", one, ports=tuple((f"p-{n}", "TCP", 1000 + n) for n in range(60)))
    add("shop", "unnamed", one, ports=(("", "TCP", 7000),))
    add("shop", "nobody")
    add("svc", "svc", one)
    add("dns", "ns", one)
    add("tcp", "a", one, ports=(("a", "TCP", 1),))
    for count, block in ((1, 2), (3, 3), (15, 4), (16, 5), (17, 6), (40, 7), (300, 8)):
        pods = [(address, f"db-{n}" if n % 3 else None) for n, address in enumerate(_pods(count, block))]
        add("data", f"head-{count}", pods, headless=True)
        add("direct", f"near-{count}", [(address, None) for address in _pods(count, block + 20)],
            annotations={"dns": "endpoints"})
    add("data", "twin", [("10.40.0.1", "pod"), ("10.40.0.2", "pod"), ("fd00:40::1", "pod")], headless=True)
    add("data", "empty", headless=True)
    add(*LONG, [("10.41.0.1", "h" * 63), ("10.41.0.2", "h" * 62), ("10.41.0.3", None)], headless=True)
    imports = sum(one["kind"] == "Service" for one in objects)
    return objects, imports


def write(folder):
    """Writes the registry; how many imports it makes."""
    objects, imports = manifests()
    folder.mkdir()
    (folder / "all.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    return imports
