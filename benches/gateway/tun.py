"""Runs a program whose standard input and output are two TUN devices: `wan0` in each of two
network namespaces. Started with their two paths, the program, and its arguments."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent / "conformance" / "net" / "lab"))
from switch import open_tun  # noqa: E402

near, far, program = sys.argv[1:4]
devices = [open_tun(path) for path in (near, far)]
for standard, device in enumerate(devices):
    os.set_blocking(device, True)
    os.dup2(device, standard)
os.execv(program, sys.argv[3:])
