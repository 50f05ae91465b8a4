"""Container images made without a builder: a docker-archive is a tar of tars with two JSON files."""

import hashlib
import io
import json
import os
import pathlib
import re
import tarfile

from tools import Failed, tool

PRODUCT = "portolan:lab"


def _entry(name, size, mode):
    entry = tarfile.TarInfo(name.lstrip("/"))
    entry.size, entry.mode, entry.mtime = size, mode, 0
    return entry


def _layer(files):
    """A layer with these files ({path in the image: path here}), and a /tmp that all may write."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        made = {"/"}
        for target, source in sorted(files.items()):
            for parent in reversed(pathlib.PurePosixPath(target).parents):
                if str(parent) not in made:
                    made.add(str(parent))
                    directory = _entry(f"{parent}/", 0, 0o755)
                    directory.type = tarfile.DIRTYPE
                    layer.addfile(directory)
            with open(source, "rb") as content:
                layer.addfile(_entry(target, os.fstat(content.fileno()).st_size, 0o755), content)
    return buffer.getvalue()


def pack(path, names, files, entrypoint, user=""):
    """Writes an image of one layer as a docker-archive with these names."""
    layer = _layer(files)
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps({
        "architecture": tool("dpkg", "--print-architecture").strip(), "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/"], "User": user, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "conformance/kube"}],
    }).encode()
    name = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{name}.json", "RepoTags": names, "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        for at, content in ((f"{name}.json", config), (f"{digest}/layer.tar", layer),
                            ("manifest.json", json.dumps(manifest).encode())):
            archive.addfile(_entry(at, len(content), 0o644), io.BytesIO(content))


def libraries(binary):
    """The libraries a program is linked with, its loader included: {path in the image: path here}."""
    try:
        listed = tool("ldd", binary)
    except Failed:
        return {}  # Static.
    found = re.findall(r"(/\S+) \(0x", listed)
    return {path: os.path.realpath(path) for path in found}


def pack_product(path, binary):
    """The product's image from a binary alone, for when none made by deploy/image.sh is given."""
    files = {"/portolan": binary, **libraries(binary)}
    pack(path, [PRODUCT], files, entrypoint=["/portolan"], user="65532:65532")
