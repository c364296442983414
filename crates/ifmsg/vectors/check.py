#!/usr/bin/env python3
"""Checks the vectors beside it with nothing of this project: a second, small implementation of the protocol.

    pip install cryptography && python3 check.py
"""
import hashlib, json, math, pathlib, re, struct, sys
from datetime import datetime, timezone
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HERE = pathlib.Path(__file__).parent
SAFE = 2**53 - 1
sha = lambda *parts: hashlib.sha256(b"".join(parts)).digest()


class Refused(Exception):
    pass


# ---- canonical JSON (RFC 8785, strict) -----------------------------------------------------------------------------


def number(value):
    """ECMAScript's Number::toString."""
    if value == 0:
        return "0"
    sign, value = ("-", -value) if value < 0 else ("", value)
    mantissa, _, exponent = ("%r" % float(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) if whole != "0" else int(exponent or 0) - (len(fraction) - len(fraction.lstrip("0")))
    digits = digits.rstrip("0")
    k, n = len(digits), point
    if k <= n <= 21:
        return sign + digits + "0" * (n - k)
    if 0 < n <= 21:
        return sign + digits[:n] + "." + digits[n:]
    if -6 < n <= 0:
        return sign + "0." + "0" * -n + digits
    e = "e%+d" % (n - 1)
    return sign + digits[0] + ("." + digits[1:] if k > 1 else "") + e


def text(value):
    short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
    return '"' + "".join(short.get(ord(c)) or ("\\u%04x" % ord(c) if c < " " else c) for c in value) + '"'


def write(value, depth=32):
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        spelled = number(value)
        if re.fullmatch(r"-?[0-9]+", spelled) and abs(int(spelled)) > SAFE:
            raise Refused("integer")
        return spelled
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate raises
        return text(value)
    if depth == 0:
        raise Refused("depth")
    if isinstance(value, list):
        return "[" + ",".join(write(item, depth - 1) for item in value) + "]"
    names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
    return "{" + ",".join(write(name) + ":" + write(value[name], depth - 1) for name in names) + "}"


def parse(data):
    def pairs(items):
        if len(dict(items)) != len(items):
            raise Refused("duplicate")
        return dict(items)

    def integer(literal):
        if abs(int(literal)) > SAFE:
            raise Refused("integer")
        return int(literal)

    def real(literal):
        if math.isinf(float(literal)):
            raise Refused("range")
        return float(literal)

    def constant(_):
        raise Refused("constant")

    try:
        decoded = data.decode("utf-8")
        value = json.loads(decoded, object_pairs_hook=pairs, parse_int=integer, parse_float=real, parse_constant=constant)
        write(value)
        return value
    except (ValueError, RecursionError) as error:
        raise Refused(error)


def canonical(data):
    return write(parse(data)).encode()


# ---- keys, signatures, trees ---------------------------------------------------------------------------------------


def key_id(public):
    return sha(b"IFMESH-KEY\0\x01", public)[:8]


def signed_bytes(public, size, root):
    return b"IFMESH-SIG\0\x01" + key_id(public) + struct.pack(">I", size) + root


def verifies(public, message, signature):
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        return True
    except (InvalidSignature, ValueError):
        return False


def split(size):
    return 1 << (size - 1).bit_length() - 1


def root_of(leaves):
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return sha(b"\x01", root_of(leaves[:k]), root_of(leaves[k:]))


def path_len(index, size):
    if size == 1:
        return 0
    k = split(size)
    return 1 + (path_len(index, k) if index < k else path_len(index - k, size - k))


def root_from(index, size, leaf, path):
    if size == 1:
        return leaf
    k = split(size)
    if index < k:
        return sha(b"\x01", root_from(index, k, leaf, path[:-1]), path[-1])
    return sha(b"\x01", path[-1], root_from(index - k, size - k, leaf, path[:-1]))


def base58(data):
    alphabet, value, out = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", int.from_bytes(data, "big"), ""
    while value:
        value, rest = divmod(value, 58)
        out = alphabet[rest] + out
    return out


def digest(body):
    return sha(b"\0", body)


# ---- the two forms -------------------------------------------------------------------------------------------------

ID = re.compile(r"[A-Za-z0-9._:/@+-]{1,128}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.A)
natural = lambda least: lambda v: type(v) is int and least <= v <= SAFE
an_id = lambda v: isinstance(v, str) and bool(ID.fullmatch(v))
a_time = lambda v: isinstance(v, str) and bool(TIME.fullmatch(v))
REQUIRED = {
    "id": an_id, "timestamp": a_time, "level": lambda v: v in (1, 2), "source": an_id,
    "destination": lambda v: v == "*" or an_id(v), "version": lambda v: v == "2.1",
    "payload": lambda v: isinstance(v, dict), "epoch": natural(0), "sequence_num": natural(1),
}
OPTIONAL = {
    "performative": lambda v: isinstance(v, str), "conversation_id": an_id, "in_reply_to": an_id,
    "traceId": lambda v: isinstance(v, str) and bool(re.fullmatch("[0-9a-f]{24}", v)),
    "citation_ids": lambda v: isinstance(v, list) and all(str(c).startswith("if://citation/") for c in v),
    "delivery": lambda v: v in ("reliable", "best-effort"), "expires": a_time,
}


def check_members(message):
    if not isinstance(message, dict) or not REQUIRED.keys() <= message.keys():
        raise Refused("missing")
    for name, value in message.items():
        rule = REQUIRED.get(name) or OPTIONAL.get(name) or (lambda _: name.startswith("x_") and an_id(name))
        if not rule(value):
            raise Refused(name)


def hexa(value, length):
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{%d}" % (2 * length), value):
        raise Refused("hex")
    return bytes.fromhex(value)


def read_json(frame):
    message = parse(frame)
    if not isinstance(message, dict):
        raise Refused("object")
    signature = message.pop("signature", None)
    if signature is None:
        raise Refused("unsigned")
    check_members(message)
    if set(signature) - {"batch"} != {"algorithm", "public_key", "signature_bytes", "signed_fields"}:
        raise Refused("shape")
    if signature["algorithm"] != "ed25519" or signature["signed_fields"] != sorted(message):
        raise Refused("signature")
    index, size, path = 0, 1, []
    if "batch" in signature:
        batch = signature["batch"]
        index, size, path = batch["index"], batch["size"], [hexa(node, 32) for node in batch["path"]]
        if not (2 <= size <= 256 and 0 <= index < size and len(path) == path_len(index, size)):
            raise Refused("batch")
    body = write(message).encode()
    root = root_from(index, size, digest(body), path)
    key = hexa(signature["public_key"], 32)
    return key_id(key), size, hexa(signature["signature_bytes"], 64), [(body, message, root)]


def read_binary(frame):
    def take(count):
        nonlocal frame
        if len(frame) < count:
            raise Refused("truncated")
        taken, frame = frame[:count], frame[count:]
        return taken

    magic, flags, suite, reserved, key, size, count = struct.unpack(">4sBBH8sHH", take(20))
    if (magic, flags, suite, reserved) != (b"IFB1", 0, 1, 0) or not 1 <= count <= size <= 256:
        raise Refused("header")
    signature, bodies, roots, last = take(64), [], [], -1
    for _ in range(count):
        if count < size:
            (index,) = struct.unpack(">H", take(2))
            if not last < index < size:
                raise Refused("index")
            last, path = index, [take(32) for _ in range(path_len(index, size))]
        body = take(struct.unpack(">I", take(4))[0])
        if canonical(body) != body:
            raise Refused("canonical")
        check_members(parse(body))
        bodies.append(body)
        if count < size:
            roots.append(root_from(index, size, digest(body), path))
    if frame:
        raise Refused("trailing")
    roots = roots or [root_of([digest(body) for body in bodies])] * count
    return key, size, signature, [(body, parse(body), root) for body, root in zip(bodies, roots)]


def read(frame):
    return read_binary(frame) if frame.startswith(b"IFB1") else read_json(frame)


class Receiver:
    """An allowlist, windows of 1,024 numbers, and a clock that stands still. One message a frame."""

    def __init__(self, setting):
        self.me, self.max_age = setting["receiver"], setting["max_age_seconds"]
        self.now = self.seconds(setting["now"])
        self.keys = {name: bytes.fromhex(key) for name, key in setting["trusted"].items()}
        self.epochs, self.seen = {}, {}

    @staticmethod
    def seconds(stamp):
        return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()

    def admit(self, frame):
        try:
            short, size, signature, [(body, message, root)] = read(frame)
        except Refused as refused:
            return "unsigned" if refused.args == ("unsigned",) else "malformed"
        if message["destination"] not in (self.me, "*"):
            return "not-for-us"
        if message["source"] == self.me:
            return "from-ourselves"
        key = self.keys.get(message["source"], b"")
        if key_id(key) != short:
            return "wrong-source" if short in map(key_id, self.keys.values()) else "unknown-key"
        stream = (key, message["epoch"], message["destination"] == "*", message.get("delivery", "reliable"))
        epoch, seen = self.epochs.get(key, -1), self.seen.setdefault(stream, {})
        earlier = seen.get(message["sequence_num"])
        if message["epoch"] < epoch:
            return "stale-epoch"
        if seen and message["sequence_num"] + 1024 <= max(seen):
            return "too-old"
        if earlier == digest(body):
            return "duplicate"
        if not verifies(key, signed_bytes(key, size, root), signature):
            return "bad-signature"
        if earlier:
            return "equivocation"
        if message["epoch"] > epoch and abs(self.now - self.seconds(message["timestamp"])) > self.max_age:
            return "not-live"
        self.epochs[key], seen[message["sequence_num"]] = message["epoch"], digest(body)
        if "expires" in message and self.now > self.seconds(message["expires"]):
            return "expired"
        return "admitted"


# ---- the checks ----------------------------------------------------------------------------------------------------


def load(name):
    return json.loads((HERE / name).read_text())


def check_keys():
    for v in load("keys.json"):
        public = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(v["seed"])).public_key()
        public = public.public_bytes(ser.Encoding.Raw, ser.PublicFormat.Raw)
        assert public.hex() == v["public_key"] and key_id(public).hex() == v["key_id"], v
        assert "did:key:z" + base58(b"\xed\x01" + public) == v["did_key"], v
        yield


def check_canonical():
    for v in load("canonical.json"):
        data = bytes.fromhex(v["input_hex"]) if "input_hex" in v else v["input"].encode()
        try:
            got = canonical(data)
        except Refused:
            got = None
        assert got == (v["canonical"].encode() if "canonical" in v else None), (v, got)
        yield


def check_messages():
    for v in load("messages.json"):
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(v["seed"]))
        public = private.public_key().public_bytes(ser.Encoding.Raw, ser.PublicFormat.Raw)
        body = write(v["message"]).encode()
        assert body == v["body"].encode() and digest(body).hex() == v["digest"]
        s = signed_bytes(public, 1, digest(body))
        assert s.hex() == v["signed_bytes"] and private.sign(s).hex() == v["signature"]
        signature = {
            "algorithm": "ed25519", "public_key": public.hex(), "signature_bytes": v["signature"],
            "signed_fields": sorted(v["message"]),
        }
        assert write(v["message"] | {"signature": signature}) == v["json"]
        frame = struct.pack(">4sBBH8sHH", b"IFB1", 0, 1, 0, key_id(public), 1, 1) + private.sign(s)
        assert (frame + struct.pack(">I", len(body)) + body).hex() == v["binary"]
        assert read(v["json"].encode()) == read(bytes.fromhex(v["binary"]))
        yield


def check_flights():
    for v in load("flights.json"):
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(v["seed"]))
        public = private.public_key().public_bytes(ser.Encoding.Raw, ser.PublicFormat.Raw)
        leaves = [digest(body.encode()) for body in v["bodies"]]
        size, root = len(leaves), root_of(leaves)
        assert [leaf.hex() for leaf in leaves] == v["digests"] and root.hex() == v["root"]
        s = signed_bytes(public, size, root)
        assert s.hex() == v["signed_bytes"] and private.sign(s).hex() == v["signature"]
        for n, (proof, one) in enumerate(zip(v["proofs"], v["json"])):
            path = [bytes.fromhex(node) for node in proof["path"]]
            assert (proof["index"], proof["size"], len(path)) == (n, size, path_len(n, size))
            assert root_from(n, size, leaves[n], path) == root
            assert [(m[0], m[2]) for m in read(one.encode())[3]] == [(v["bodies"][n].encode(), root)]
        whole = read(bytes.fromhex(v["binary"]))
        assert whole[:3] == (key_id(public), size, private.sign(s))
        assert [m[0].decode() for m in whole[3]] == v["bodies"]
        for part in v["parts"]:
            messages = read(bytes.fromhex(part["binary"]))[3]
            assert [(m[0].decode(), m[2]) for m in messages] == [(v["bodies"][n], root) for n in part["indices"]]
        yield


def statement(prefix, *parts):
    return prefix.encode() + b"\0" + b"".join(struct.pack(">I", len(part)) + part for part in parts)


def check_statements():
    for v in load("statements.json"):
        if r := v.get("rotation"):
            old, new = bytes.fromhex(r["from"]), bytes.fromhex(r["to"])
            s = statement("IFMESH-ROT", r["agent"].encode(), old, new, r["timestamp"].encode())
            assert verifies(old, s, bytes.fromhex(r["signature_from"])) and verifies(new, s, bytes.fromhex(r["signature_to"]))
        elif r := v.get("revocation"):
            s = statement("IFMESH-REVOKE", bytes.fromhex(r["key"]), r["timestamp"].encode())
            assert verifies(bytes.fromhex(r["by"]), s, bytes.fromhex(r["signature"]))
        else:
            s = statement(v["prefix"], *map(bytes.fromhex, v["parts"]))
            private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(v["seed"]))
            assert s.hex() == v["bytes"] and private.sign(s).hex() == v["signature"], v
        yield


def check_refusals():
    setting, *cases = load("refusals.json")
    for v in cases:
        receiver = Receiver(setting)
        for frame in v["before"]:
            assert receiver.admit(frame.encode()) == "admitted", v["name"]
        got = receiver.admit(bytes.fromhex(v["frame"]))
        assert got == v["refused"], (v["name"], v["refused"], got)
        yield


if __name__ == "__main__":
    for check in (check_keys, check_canonical, check_messages, check_flights, check_statements, check_refusals):
        print(f"{check.__name__[6:]}: {sum(1 for _ in check())} ok")
    sys.exit(0)
