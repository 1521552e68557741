"""Certificates made with the `openssl` command, and folders in which they change as Kubernetes changes mounted ones."""

from __future__ import annotations

import itertools
import shutil
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .planted import note_key
from .processes import scratch_folder

_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
_serials = itertools.count(1000)

_CONFIG = """
[ca]
default_ca = own
[own]
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
certificate = {folder}/ca.crt
private_key = {folder}/ca.key
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = optional
organizationName = optional
[extensions]
basicConstraints = CA:FALSE
extendedKeyUsage = serverAuth, clientAuth
{names}
"""


def openssl(*arguments: str, given: str = "") -> str:
    """Runs the command; what it says when it fails becomes the error's text."""
    done = subprocess.run(["openssl", *arguments], input=given, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, PEM."""

    certificate: Path
    key: Path

    @property
    def serial(self) -> str:
        return openssl("x509", "-in", str(self.certificate), "-noout", "-serial").strip().partition("=")[2]


class Authority:
    """Issues certificates that only those believe who know `ca`."""

    def __init__(self, name: str = "authority") -> None:
        self._folder = scratch_folder("certificates")
        self.ca = self._folder / "ca.crt"
        (self._folder / "index").touch()
        key = str(self._folder / "ca.key")
        openssl("req", "-x509", *_CURVE, "-keyout", key, "-out", str(self.ca), "-days", "30", "-subj", f"/CN={name}")

    def issue(self, name: str, uris: Sequence[str] = (), expired: bool = False) -> Issued:
        """A certificate for `localhost` and 127.0.0.1 with this common name."""
        serial = next(_serials)
        issued = Issued(self._folder / f"{serial}.crt", self._folder / f"{serial}.key")
        request, config = self._folder / f"{serial}.csr", self._folder / f"{serial}.cnf"
        names = ["DNS:localhost", "IP:127.0.0.1", *(f"URI:{uri}" for uri in uris)]
        config.write_text(_CONFIG.format(folder=self._folder, names=f"subjectAltName = {', '.join(names)}"))
        (self._folder / "serial").write_text(f"{serial:06X}\n")
        subject = f"/CN={name}"
        openssl("req", "-new", *_CURVE, "-keyout", str(issued.key), "-out", str(request), "-subj", subject)
        dates = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"] if expired else ["-days", "20"]
        openssl(
            "ca", "-batch", "-notext", "-config", str(config), "-extensions", "extensions", *dates,
            "-in", str(request), "-out", str(issued.certificate),
        )  # fmt: skip
        note_key(issued.key)
        return issued

    def trusted(self, certificate: Issued | None = None) -> ssl.SSLContext:
        """How a client sees servers that this authority vouches for; it shows `certificate` itself."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if certificate:
            context.load_cert_chain(certificate.certificate, certificate.key)
        return context


class Mounted:
    """A folder of files that change all at once, by one rename of a symbolic link (as in Kubernetes)."""

    def __init__(self, **files: Path | str) -> None:
        self.folder = scratch_folder("mounted")
        self._versions = itertools.count(1)
        self._files: dict[str, Path | str] = {}
        self.replace(**files)

    def path(self, name: str) -> Path:
        return self.folder / _file(name)

    def replace(self, **files: Path | str) -> None:
        """Puts these in the place of those of the same name; a text stands for itself. `tls_crt` is `tls.crt`."""
        self._files |= files
        version = self.folder / f"..{next(self._versions)}"
        version.mkdir()
        for name, source in self._files.items():
            if isinstance(source, Path):
                shutil.copy(source, version / _file(name))
            else:
                (version / _file(name)).write_text(source)
            if not self.path(name).is_symlink():
                self.path(name).symlink_to(f"..data/{_file(name)}")
        draft = self.folder / "..draft"
        draft.symlink_to(version.name)
        draft.replace(self.folder / "..data")

    def pair(self, issued: Issued) -> Mapping[str, Path]:
        """The files of a certificate, for `replace`."""
        return {"tls_crt": issued.certificate, "tls_key": issued.key}


def _file(name: str) -> str:
    return name.replace("_", ".")
