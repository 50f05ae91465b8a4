"""Who is where: clouds, addresses, round trips, names."""

CLOUDS = ("paris", "oregon", "tokyo")
NUMBER = {cloud: number for number, cloud in enumerate(CLOUDS, 1)}
ROUND_TRIP_MS = {("paris", "oregon"): 20, ("oregon", "tokyo"): 80, ("paris", "tokyo"): 110}
PORT = 8080
PODS = 2
ZONE = "clusterset.local"
WEB, DIRECT = f"web.shop.svc.{ZONE}", f"web-direct.shop.svc.{ZONE}"


def network(cloud):
    """The addresses of a cloud, gateways and pods alike."""
    return f"10.77.{NUMBER[cloud]}.0/24"


def gateway(cloud, replica=0):
    return f"10.77.{NUMBER[cloud]}.{1 + replica}"


def pod(cloud, number):
    return f"10.77.{NUMBER[cloud]}.{10 + number}"
