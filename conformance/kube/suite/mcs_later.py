"""What the KEP asks for and this part does not bring yet: listed, so that nobody takes it for proven."""

from checks import check

UDP = "UDP through the gateway comes with the gateway's issue"


def later(name, kep, why, about, level="MUST"):
    def nothing(context):
        raise NotImplementedError
    nothing.__doc__ = about
    check(name, kep=kep, level=level, not_yet=why)(nothing)


later("mcs-udp-answers", "#clustersetip", UDP,
      "A UDP port of an import is answered by pods of the other cluster.")
