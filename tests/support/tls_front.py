"""TLS before a PostgreSQL server that has none: the client's side is a real handshake with a real certificate."""

import contextlib
import ipaddress
import select
import socket
import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.redis_servers import listening

SSL_REQUEST = bytes.fromhex("0000000804d2162f")
GSS_REQUEST = bytes.fromhex("0000000804d21630")
NO_TLS = b'SFATAL\0VFATAL\0C28000\0Mno pg_hba.conf entry for host "127.0.0.1", no encryption\0\0'


class Authority:
    """A certificate authority that writes its certificate, and those that it signs, to files in a folder."""

    def __init__(self, folder):
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.path = self._write("authority", self._signed("authority", self._key, is_authority=True))

    def certificate(self, host):
        """Return the path of a certificate for a host, with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return self._write(host, self._signed(host, key), key.private_bytes(*form))

    def _write(self, name, certificate, key=b""):
        path = self._folder / f"{name}.pem"
        path.write_bytes(key + certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def _signed(self, host, key, *, is_authority=False):
        name, issuer = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (host, self._folder.name[:64])
        )
        with contextlib.suppress(ValueError):
            host = ipaddress.ip_address(host)
        alternative = x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder(issuer, issuer if is_authority else name, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        return builder.sign(self._key, hashes.SHA256())


@contextlib.contextmanager
def tls_front(server_port, certificate, handshakes):
    """Yield the port of an endpoint that requires TLS and passes all on; ``handshakes`` gets the version of each."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def answer(connection):
        request = connection.recv(8)
        if request == GSS_REQUEST:
            connection.sendall(b"N")
            request = connection.recv(8)
        if request != SSL_REQUEST:
            connection.sendall(b"E" + (len(NO_TLS) + 4).to_bytes(4) + NO_TLS)
            return
        connection.sendall(b"S")
        with (
            context.wrap_socket(connection, server_side=True) as client,
            socket.create_connection(("127.0.0.1", server_port)) as server,
        ):
            handshakes.append(client.version())
            _pass_on(client, server)

    with listening(answer) as port:
        yield port


def _pass_on(client, server):
    """Pass bytes on between both until one of them ends."""
    while True:
        readable = [client] if client.pending() else select.select([client, server], [], [])[0]
        for one in readable:
            data = one.recv(65536)
            if not data:
                return
            (server if one is client else client).sendall(data)
