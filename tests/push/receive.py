"""Receives Portero's pushes with implementations that are not ours, and checks every byte of them.

Decryption: npm `web-push-testing` and PyPI `http_ece`. Signatures: PyPI `cryptography`. The mock
service does not look at `aud`, a missing or far `exp`, or the size, so those are checked here.

usage: receive.py PUSH_ONCE NODE_MODULES SCRATCH
"""

import base64
import contextlib
import datetime
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import http_ece
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

PUSH_ONCE, NODE_MODULES, SCRATCH = sys.argv[1:4]
HERE = os.path.dirname(os.path.abspath(__file__))
PLAINTEXT_BYTES_MAX = 2500  # what Portero promises
BODY_BYTES_MAX = 4096  # RFC 8291 section 4
EXP_SECONDS_MAX = 24 * 3600  # RFC 8292 section 2
RING = {
    "title": "Grüße von der Tür 🔔",
    "body": 'She said "open", \\ and 門',
    "tag": "ring-17",
    "urgency": "high",
    "url": "/#event=0123456789abcdef0123456789abcdef",
    "image": "https://netatmo.example/snapshot?id=1&key=2",
}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def point(key):
    form = serialization.PublicFormat.UncompressedPoint
    return key.public_key().public_bytes(serialization.Encoding.X962, form)


class Phone:
    """A browser's side of a subscription, with keys of its own."""

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.auth = os.urandom(16)

    def subscription(self, endpoint):
        return {
            "endpoint": endpoint,
            "expirationTime": None,
            "keys": {"p256dh": b64(point(self.key)), "auth": b64(self.auth)},
        }

    def decrypt(self, body):
        return http_ece.decrypt(
            body, private_key=self.key, auth_secret=self.auth, version="aes128gcm"
        )


def scratch(name, content=None):
    path = os.path.join(SCRATCH, name)
    if content is not None:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file)
    return path


VAPID_FILE = scratch("vapid.pkcs8")


def push(subscription, message, ttl=60, **environment):
    """Sends with the real delivery block; returns how it ended."""
    command = [PUSH_ONCE, VAPID_FILE, "send", scratch("subscription.json", subscription)]
    command += [scratch("message.json", message), str(ttl)]
    clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        command, env={**clean, **environment}, check=True, capture_output=True, timeout=60
    )
    return json.loads(done.stdout)


def check_request(seen, phone, origin, key, ttl=60):
    """Everything a strict push service and the phone would check. Returns the payload."""
    headers, body = seen["headers"], seen["body"]
    assert len(body) <= BODY_BYTES_MAX, len(body)
    assert 0 < int(headers["ttl"]) <= ttl, headers["ttl"]
    assert headers["content-encoding"] == "aes128gcm"
    assert headers["content-type"] == "application/octet-stream"
    assert "encryption" not in headers and "crypto-key" not in headers
    check_token(headers["authorization"], origin, key)
    plain = phone.decrypt(body)
    assert len(plain) <= PLAINTEXT_BYTES_MAX, len(plain)
    return json.loads(plain)


def check_token(header, origin, key):
    scheme, _, rest = header.partition(" ")
    assert scheme == "vapid", header
    fields = dict(part.strip().split("=", 1) for part in rest.split(","))
    assert set(fields) == {"t", "k"} and fields["k"] == key, fields
    signed, _, signature = fields["t"].rpartition(".")
    raw = unb64(signature)
    assert len(raw) == 64, len(raw)
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), unb64(key))
    public.verify(encode_dss_signature(r, s), signed.encode(), ec.ECDSA(hashes.SHA256()))
    head, claims = (json.loads(unb64(part)) for part in signed.split("."))
    assert head == {"typ": "JWT", "alg": "ES256"}, head
    assert set(claims) == {"aud", "exp", "sub"}, claims
    assert claims["aud"] == origin, (claims["aud"], origin)
    assert type(claims["exp"]) is int
    assert 0 < claims["exp"] - time.time() <= EXP_SECONDS_MAX, claims["exp"]
    assert claims["sub"] == "mailto:ana@example.org", claims["sub"]


@contextlib.contextmanager
def plain_service(statuses):
    """An HTTP push service that keeps what it gets and answers these statuses in turn."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen.append({"headers": headers, "body": body, "path": self.path})
            self.send_response(statuses[min(len(seen), len(statuses)) - 1])
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()


@contextlib.contextmanager
def node(script, *arguments):
    command = ["node", os.path.join(HERE, script), *arguments]
    environment = {**os.environ, "NODE_PATH": NODE_MODULES}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def proxy(target_port):
    """An HTTPS proxy (CONNECT) that leads every name to one local port, as a name server would."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked = []

    def pipe(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65536)
            asked.append(head.split(b"\r\n")[0].decode())
            upstream = socket.create_connection(("127.0.0.1", target_port))
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for ends in ((client, upstream), (upstream, client)):
                threading.Thread(target=pipe, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        listener.close()


def make_certificate(name):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(subject, subject, key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - day).not_valid_after(now + day)
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    form, no_password = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files = {
        "certificate.pem": certificate.public_bytes(pem),
        "key.pem": key.private_bytes(pem, form, no_password),
    }
    for file, data in files.items():
        with open(scratch(file), "wb") as out:
            out.write(data)
    return [scratch(file) for file in files]


def post(url, value):
    data, headers = json.dumps(value).encode(), {"content-type": "application/json"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, data, headers), timeout=10) as answer:
        return json.load(answer)["data"]


def test_the_mock_push_service_decrypts(key):
    with node("mock_service.cjs") as (_, port):
        base = f"http://localhost:{port}"
        given = post(f"{base}/subscribe", {"userVisibleOnly": "true", "applicationServerKey": key})
        settled = push({"endpoint": given["endpoint"], "keys": given["keys"]}, RING)
        assert settled["outcome"] == "delivered", settled
        got = post(f"{base}/get-notifications", {"clientHash": given["clientHash"]})["messages"]
        assert len(got) == 1, got
        check_ring(json.loads(got[0]))


def check_ring(payload):
    assert payload["web_push"] == 8030 and payload["mutable"] is True
    notification = payload["notification"]
    for field in ("title", "body", "tag", "image"):
        assert notification[field] == RING[field], (field, notification[field])
    assert notification["navigate"] == "https://home.example.org" + RING["url"]
    ours = payload["portero"]
    assert ours["event"] == "0123456789abcdef0123456789abcdef"
    phone, _, proof = ours["token"].partition(".")
    assert len(ours["action"]) == 32 and len(phone) == 16 and len(proof) == 22, ours


def test_http_ece_decrypts_and_the_token_holds(key):
    phone = Phone()
    with plain_service([201]) as (origin, seen):
        settled = push(phone.subscription(origin + "/push/1"), RING)
        assert settled["outcome"] == "delivered", settled
        check_ring(check_request(seen[0], phone, origin, key))
        assert seen[0]["headers"]["topic"] == "ring-17"
        assert seen[0]["headers"]["urgency"] == "high"
        try:
            Phone().decrypt(seen[0]["body"])
        except http_ece.ECEException:
            return
        raise AssertionError("another phone could read it")


def test_long_texts_are_shortened_and_413_gets_the_short_form(key):
    phone, long = Phone(), {"title": "T", "body": "größer " * 2000, "tag": "a tag " * 50}
    with plain_service([413, 201]) as (origin, seen):
        settled = push(phone.subscription(origin + "/push/2"), long)
        assert settled["outcome"] == "delivered" and settled["attempts"] == 2, settled
        full, short = (check_request(one, phone, origin, key) for one in seen)
        for payload in (full, short):
            assert payload["notification"]["body"].endswith("größer…")
        assert len(short["notification"]["body"]) < 1000 < len(full["notification"]["body"])
        assert len(seen[0]["headers"]["topic"]) <= 32


def test_http_2_over_tls_through_a_proxy_with_our_own_root(key):
    phone, name = Phone(), "push.example.org"
    certificate, private = make_certificate(name)
    with node("h2_service.cjs", certificate, private) as (service, port):
        with proxy(port) as (proxy_port, asked):
            subscription = phone.subscription(f"https://{name}/push/3")
            environment = {"HTTPS_PROXY": f"http://localhost:{proxy_port}"}
            settled = push(subscription, RING, SSL_CERT_FILE=certificate, **environment)
            assert settled["outcome"] == "delivered", settled
            assert asked == [f"CONNECT {name}:443 HTTP/1.1"], asked
            seen = json.loads(service.stdout.readline())
            assert seen["version"] == "2.0", seen["version"]
            seen["body"] = base64.b64decode(seen["body"])
            check_ring(check_request(seen, phone, f"https://{name}", key))
            distrusting = push(subscription, RING, ttl=1, **environment)
            assert "certificate" in distrusting["outcome"]["expired"]["last"], distrusting


def test_an_endpoint_in_the_house_is_refused(_key):
    settled = push(Phone().subscription("https://192.168.0.1/push"), RING)
    assert "private" in settled["outcome"]["refused"]["why"], settled


def main():
    make = subprocess.run([PUSH_ONCE, VAPID_FILE], check=True, capture_output=True, text=True)
    key = make.stdout.strip()
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    for name, test in tests:
        test(key)
        print("ok  ", name.removeprefix("test_").replace("_", " "))


main()
