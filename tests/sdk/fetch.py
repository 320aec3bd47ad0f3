"""Puts the pinned npm package `openai` into a folder under the build folder, once.

With npm it is `npm ci`. Debian's npm brings 350 packages with it, so without npm the one tarball that package-lock.json
names is fetched here, from the registry that npm_config_registry names or the public one, and held against the lock's
sha512.
SPDX-License-Identifier: Apache-2.0
"""
import base64
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
PUBLIC_REGISTRY = "https://registry.npmjs.org"
# What npm prints when it never spoke to a registry; all else (a hash that differs, no such version) is a failure.
UNREACHABLE = ("EAI_AGAIN", "ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH",
               "ERR_SOCKET_TIMEOUT")


class Unreachable(Exception):
    """The registry did not answer."""


def pinned():
    """(version, sha512) as package-lock.json has them."""
    entry = json.loads((HERE / "package-lock.json").read_text())["packages"]["node_modules/openai"]
    return entry["version"], entry["integrity"].removeprefix("sha512-")


def unpack(data, folder, sha512):
    """A package's tarball to folder; nothing is written unless the hash is the expected one."""
    found = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != sha512:
        raise ValueError("the tarball's sha512 is %s, not %s as package-lock.json says" % (found, sha512))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive.getmembers():
            path = pathlib.PurePosixPath(*pathlib.PurePosixPath(member.name).parts[1:])  # all is below package/
            if not member.isfile() or path.is_absolute() or ".." in path.parts:
                continue
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.extractfile(member).read())


def with_npm(folder):
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    done = subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, capture_output=True,
                          text=True, timeout=240)
    if done.returncode != 0 and any(word in done.stderr for word in UNREACHABLE):
        raise Unreachable(done.stderr)
    done.check_returncode()


def with_tarball(folder, registry):
    version, sha512 = pinned()
    try:
        address = "%s/openai/-/openai-%s.tgz" % (registry.rstrip("/"), version)
        with urllib.request.urlopen(address, timeout=60) as answer:
            data = answer.read()
    except urllib.error.HTTPError:
        raise
    except OSError as error:
        raise Unreachable(str(error)) from error
    unpack(data, folder / "node_modules" / "openai", sha512)


def install(cache, npm=shutil.which("npm"), registry=os.environ.get("npm_config_registry") or PUBLIC_REGISTRY):
    """The folder whose node_modules holds the package. Filled aside and renamed, so it is whole or absent."""
    folder = pathlib.Path(cache) / ("openai-" + pinned()[0])
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        fresh = pathlib.Path(aside) / "new"
        fresh.mkdir()
        if npm:
            with_npm(fresh)
        else:
            with_tarball(fresh, registry)
        try:
            fresh.rename(folder)
        except OSError:  # another run was quicker
            if not folder.exists():
                raise
    return folder
