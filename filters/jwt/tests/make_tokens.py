#!/usr/bin/env python3
"""Makes tokens.json: keys, and tokens that another library has signed or that are forged.

    pip install pyjwt cryptography && python3 make_tokens.py > tokens.json

The private keys are thrown away, so each run changes all of the file. The tests need the file only.
"""

import base64
import hashlib
import hmac
import json

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

# The clock of the tests: 2025-01-01T00:00:00Z.
NOW = 1735689600
CLAIMS = {
    "iss": "https://issuer.example",
    "sub": "alice",
    "aud": "https://api.example",
    "iat": NOW - 60,
    "nbf": NOW - 60,
    "exp": NOW + 3600,
}
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
rsa_large = rsa.generate_private_key(public_exponent=65537, key_size=4096)
rsa_small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
rsa_stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
p256_key = ec.generate_private_key(ec.SECP256R1())
p256_stranger = ec.generate_private_key(ec.SECP256R1())
p384_key = ec.generate_private_key(ec.SECP384R1())
p521_key = ec.generate_private_key(ec.SECP521R1())
ed25519_key = ed25519.Ed25519PrivateKey.generate()
SECRET = "a secret of the tests, 64 bytes long, which no one else ought to use"[:64].ljust(64, ".")


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def jwk(algorithm, key, **members):
    return json.loads(algorithm.to_jwk(key.public_key())) | members


def rsa_jwk(key, **members):
    public = jwk(RSAAlgorithm, key)
    return {name: public[name] for name in ("kty", "n", "e")} | members


def sign(algorithm, key, kid=None, headers=None, drop=(), **claims):
    payload = {name: value for name, value in (CLAIMS | claims).items() if name not in drop}
    headers = dict(headers or {})
    if kid is not None:
        headers["kid"] = kid
    return jwt.encode(payload, key, algorithm=algorithm, headers=headers)


def signed_text(header, payload):
    """Header and payload, each as bytes or as what becomes JSON."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    return ".".join(encoded(part) for part in parts)


def by_rsa(header, payload):
    text = signed_text(header, payload)
    return text + "." + encoded(rsa_key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))


def by_mac(header, payload, secret):
    text = signed_text(header, payload)
    return text + "." + encoded(hmac.new(secret, text.encode(), hashlib.sha256).digest())


def with_signature(token, change):
    text, _, signature = token.rpartition(".")
    return text + "." + encoded(change(decoded(signature)))


def with_payload(token, **claims):
    header, payload, signature = token.split(".")
    payload = json.loads(decoded(payload)) | claims
    return ".".join([header, encoded(json.dumps(payload).encode()), signature])


def pss(salt):
    text = signed_text({"alg": "PS256", "kid": "rsa"}, CLAIMS)
    scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=salt)
    return text + "." + encoded(rsa_key.sign(text.encode(), scheme, hashes.SHA256()))


rs256 = sign("RS256", rsa_key, "rsa")
es256 = sign("ES256", p256_key, "p256")
hs256 = sign("HS256", SECRET, "secret")
eddsa = sign("EdDSA", ed25519_key, "ed25519")
rsa_pem = rsa_key.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
rsa_der = rsa_key.public_key().public_bytes(
    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
)
p256_pem = p256_key.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
p256_point = p256_key.public_key().public_bytes(
    serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
)
rsa_public = rsa_jwk(rsa_key)
hs = {"alg": "HS256", "typ": "JWT"}
rs = {"alg": "RS256", "typ": "JWT", "kid": "rsa"}
forged = {"sub": "mallory"}


def unsigned(alg):
    return signed_text({"alg": alg, "typ": "JWT"}, CLAIMS | forged) + "."


valid = {
    "HS256": hs256,
    "HS384": sign("HS384", SECRET, "secret"),
    "HS512": sign("HS512", SECRET, "secret"),
    "RS256": rs256,
    "RS384": sign("RS384", rsa_key, "rsa"),
    "RS512": sign("RS512", rsa_key, "rsa"),
    "PS256": sign("PS256", rsa_key, "rsa"),
    "PS384": sign("PS384", rsa_key, "rsa"),
    "PS512": sign("PS512", rsa_key, "rsa"),
    "RS256 of 4096 bits": sign("RS256", rsa_large, "rsa-large"),
    "ES256": es256,
    "ES384": sign("ES384", p384_key, "p384"),
    "EdDSA": eddsa,
    "Ed25519": (lambda text: text + "." + encoded(ed25519_key.sign(text.encode())))(
        signed_text({"alg": "Ed25519", "kid": "ed25519"}, CLAIMS)
    ),
    "without kid": sign("ES256", p256_key),
    "audience in a list": sign("RS256", rsa_key, "rsa", aud=["https://other.example", "https://api.example"]),
    "times with fractions": sign("RS256", rsa_key, "rsa", exp=NOW + 0.5, nbf=NOW - 0.5, iat=NOW - 0.5),
    "expired within the skew": sign("RS256", rsa_key, "rsa", exp=NOW - 29),
    "not yet within the skew": sign("RS256", rsa_key, "rsa", nbf=NOW + 29, iat=NOW + 29),
    "keys of its own, ignored": sign(
        "RS256", rsa_key, "rsa",
        headers={"jwk": rsa_jwk(rsa_stranger), "jku": "https://evil.example/", "x5u": "https://evil.example/"},
    ),
}

# By why they are refused.
invalid = {
    "algorithm": {
        **{f"alg {alg}": unsigned(alg) for alg in ("none", "None", "NONE", "nOnE", "", "null", "none ", "HS1", "rs256")},
        "none with a signature": signed_text({"alg": "none"}, CLAIMS) + "." + encoded(b"x" * 32),
        "ES512, which is not allowed": sign("ES512", p521_key, "p521"),
    },
    "malformed": {
        "alg null": signed_text({"alg": None}, CLAIMS) + ".",
        "alg in a list": signed_text({"alg": ["none"]}, CLAIMS) + ".",
        "no alg": signed_text({"typ": "JWT"}, CLAIMS) + ".",
        "header a list": signed_text([rs], CLAIMS) + ".",
        "header no JSON": signed_text(b"alg=none", CLAIMS) + ".",
        "header empty": "." + rs256.split(".", 1)[1],
        "alg twice": by_rsa(b'{"alg":"none","kid":"rsa","alg":"RS256"}', CLAIMS),
        "kid a number": by_rsa(rs | {"kid": 1}, CLAIMS),
        "crit": by_rsa(rs | {"crit": ["exp"], "exp": 1}, CLAIMS),
        "crit and b64": by_rsa(rs | {"crit": ["b64"], "b64": False}, CLAIMS),
        "crit empty": by_rsa(rs | {"crit": []}, CLAIMS),
        "payload twice": by_rsa(rs, b'{"sub":"alice","exp":9999999999,"sub":"admin"}'),
        "payload deep": by_rsa(rs, b'{"a":' * 17 + b"1" + b"}" * 17),
        "payload a text": by_rsa(rs, b'"text"'),
        "payload empty": by_rsa(rs, b""),
        "payload not UTF-8": by_rsa(rs, b'{"sub":"\xff"}'),
        "exp a text": by_rsa(rs, CLAIMS | {"exp": str(NOW + 3600)}),
        "nbf null": by_rsa(rs, CLAIMS | {"nbf": None}),
        "truncated to two parts": rs256.rpartition(".")[0],
        "truncated to one part": rs256.split(".")[0],
        "a part more": rs256 + ".",
        "parts of an encrypted token": rs256 + ".AAAA.AAAA",
        "base64 with padding": es256 + "==",
        "base64 with plus and slash": rs256.rpartition(".")[0] + "." + base64.b64encode(b"\xfb\xff" * 128).decode().rstrip("="),
        # 64 bytes leave 4 bits over in the last letter, which must be zero.
        "base64 with bits left over": es256[:-1] + chr(ord(es256[-1]) + 1),
        "base64 with a line break": rs256[:-10] + "\t" + rs256[-10:],
        "space inside": rs256.replace(".", ". ", 1),
        "two tokens": rs256 + ", " + rs256,
        "only dots": "..",
    },
    "unknown-key": {
        "kid unknown": sign("RS256", rsa_key, "other"),
        "kid of another letter case": sign("RS256", rsa_key, "RSA"),
        "kid of a key of another type": sign("RS256", rsa_key, "p256"),
        "kid a path": by_mac(hs | {"kid": "../../dev/null"}, CLAIMS, b""),
        "kid of a key for encryption": sign("RS256", rsa_key, "encryption"),
        "kid of a key that may only sign": sign("RS256", rsa_key, "signing"),
        "kid of a key that is for RS512 only": sign("RS256", rsa_key, "rsa-512"),
    },
    "signature": {
        "by a stranger": sign("RS256", rsa_stranger, "rsa"),
        "by a stranger without kid": sign("RS256", rsa_stranger),
        "by a stranger with P-256": sign("ES256", p256_stranger, "p256"),
        "by a stranger with his key": sign("RS256", rsa_stranger, "rsa", headers={"jwk": rsa_jwk(rsa_stranger, kid="rsa")}),
        "by another key of the set": sign("RS256", rsa_large, "rsa"),
        "secret is the RSA key's PEM": by_mac(hs, CLAIMS | forged, rsa_pem),
        "secret is the RSA key's PEM without its end": by_mac(hs, CLAIMS | forged, rsa_pem.rstrip()),
        "secret is the RSA key's DER": by_mac(hs, CLAIMS | forged, rsa_der),
        "secret is the RSA key's modulus": by_mac(hs, CLAIMS | forged, decoded(rsa_public["n"])),
        "secret is the RSA key's modulus as text": by_mac(hs, CLAIMS | forged, rsa_public["n"].encode()),
        "secret is the RSA key's JWK": by_mac(hs, CLAIMS | forged, json.dumps(rsa_public).encode()),
        "secret is the EC key's PEM": by_mac(hs, CLAIMS | forged, p256_pem),
        "secret is the EC key's point": by_mac(hs, CLAIMS | forged, p256_point),
        "secret is empty": by_mac(hs, CLAIMS | forged, b""),
        "MAC empty": with_signature(hs256, lambda mac: b""),
        "MAC cut": with_signature(hs256, lambda mac: mac[:16]),
        "MAC longer": with_signature(hs256, lambda mac: mac + b"\0"),
        "MAC with one bit changed": with_signature(hs256, lambda mac: mac[:-1] + bytes([mac[-1] ^ 1])),
        "payload changed, RS256": with_payload(rs256, **forged),
        "payload changed, HS256": with_payload(hs256, **forged),
        "payload changed, ES256": with_payload(es256, **forged),
        "payload changed, EdDSA": with_payload(eddsa, **forged),
        "header changed": encoded(json.dumps(rs | {"x": 1}).encode()) + "." + rs256.split(".", 1)[1],
        "signature of another algorithm": signed_text(rs | {"alg": "RS384"}, CLAIMS) + "." + rs256.rpartition(".")[2],
        "PKCS #1 v1.5 as PSS": signed_text(rs | {"alg": "PS256"}, CLAIMS) + "." + rs256.rpartition(".")[2],
        "PSS with an empty salt": pss(0),
        "PSS with a salt of 20 bytes": pss(20),
        "RSA signature empty": with_signature(rs256, lambda signature: b""),
        "RSA signature zero": with_signature(rs256, lambda signature: b"\0" * 256),
        "RSA signature one": with_signature(rs256, lambda signature: b"\0" * 255 + b"\x01"),
        "RSA signature the modulus": with_signature(rs256, lambda signature: decoded(rsa_public["n"])),
        "RSA signature with a zero in front": with_signature(rs256, lambda signature: b"\0" + signature),
        "RSA signature cut": with_signature(rs256, lambda signature: signature[:-1]),
        "RSA signature huge": with_signature(rs256, lambda signature: signature * 8),
        "ES256 r and s zero": with_signature(es256, lambda signature: b"\0" * 64),
        "ES256 r zero": with_signature(es256, lambda signature: b"\0" * 32 + signature[32:]),
        "ES256 s zero": with_signature(es256, lambda signature: signature[:32] + b"\0" * 32),
        "ES256 r the order": with_signature(es256, lambda signature: P256_ORDER.to_bytes(32, "big") + signature[32:]),
        "ES256 s the order": with_signature(es256, lambda signature: signature[:32] + P256_ORDER.to_bytes(32, "big")),
        "ES256 of 63 bytes": with_signature(es256, lambda signature: signature[:-1]),
        "ES256 of 65 bytes": with_signature(es256, lambda signature: signature + b"\0"),
        "ES256 empty": with_signature(es256, lambda signature: b""),
        "ES256 as DER": (lambda text: text + "." + encoded(p256_key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))))(
            signed_text({"alg": "ES256", "kid": "p256"}, CLAIMS)
        ),
        "ES384 of 64 bytes": signed_text({"alg": "ES384", "kid": "p384"}, CLAIMS) + "." + es256.rpartition(".")[2],
        "EdDSA zero": with_signature(eddsa, lambda signature: b"\0" * 64),
        # The neutral point as R, and nothing as S: good for a key of small order.
        "EdDSA of small order": with_signature(eddsa, lambda signature: b"\x01" + b"\0" * 63),
        "EdDSA of 63 bytes": with_signature(eddsa, lambda signature: signature[:-1]),
        "EdDSA of 65 bytes": with_signature(eddsa, lambda signature: signature + b"\0"),
        "EdDSA with S over the order": with_signature(
            eddsa,
            lambda signature: signature[:32]
            + (int.from_bytes(signature[32:], "little") + 2**252 + 27742317777372353535851937790883648493).to_bytes(32, "little"),
        ),
    },
    "expired": {
        "expired": sign("RS256", rsa_key, "rsa", exp=NOW - 3600),
        "expired with the skew": sign("RS256", rsa_key, "rsa", exp=NOW - 30),
        "exp negative": sign("RS256", rsa_key, "rsa", exp=-1),
        "exp zero": sign("RS256", rsa_key, "rsa", exp=0),
    },
    "not-yet": {
        "nbf in the future": sign("RS256", rsa_key, "rsa", nbf=NOW + 3600),
        "nbf beyond the skew": sign("RS256", rsa_key, "rsa", nbf=NOW + 31),
        "iat in the future": by_rsa(rs, CLAIMS | {"iat": NOW + 31}),
        "nbf huge": by_rsa(rs, b'{"iss":"https://issuer.example","aud":"https://api.example","exp":1e300,"nbf":1e299}'),
    },
    "lifetime": {
        "no exp": sign("RS256", rsa_key, "rsa", drop=["exp"]),
    },
    "issuer": {
        "another issuer": sign("RS256", rsa_key, "rsa", iss="https://evil.example"),
        "issuer with a slash more": sign("RS256", rsa_key, "rsa", iss="https://issuer.example/"),
        "issuers in a list": by_rsa(rs, CLAIMS | {"iss": ["https://issuer.example"]}),
        "no issuer": sign("RS256", rsa_key, "rsa", drop=["iss"]),
    },
    "audience": {
        "another audience": sign("RS256", rsa_key, "rsa", aud="https://other.example"),
        "other audiences": sign("RS256", rsa_key, "rsa", aud=["https://other.example", "x"]),
        "audiences empty": sign("RS256", rsa_key, "rsa", aud=[]),
        "audience a number among texts": sign("RS256", rsa_key, "rsa", aud=["https://api.example", 1]),
        "audience an object": by_rsa(rs, CLAIMS | {"aud": {"https://api.example": True}}),
        "no audience": sign("RS256", rsa_key, "rsa", drop=["aud"]),
    },
}

others = {
    "roles": sign(
        "RS256", rsa_key, "rsa", email="a@example.com", level=3, big=2**64 - 1, staff=True, nothing=None,
        realm_access={"roles": ["admin", "audit"]}, scope="read write", scp=["read", "write"],
        name="J\u00fcrgen", spaced=" x", lines="a\r\nx-admin: 1", commas=["a,b"], nested={"a": 1},
        long="x" * 4097, empty="", tab="a\tb",
    ),
    "at+jwt": sign("RS256", rsa_key, "rsa", headers={"typ": "at+jwt"}),
    "application/at+JWT": sign("RS256", rsa_key, "rsa", headers={"typ": "application/at+JWT"}),
    "without aud": sign("RS256", rsa_key, "rsa", drop=["aud"]),
    "without exp": sign("RS256", rsa_key, "rsa", drop=["exp"]),
    "without iat": sign("RS256", rsa_key, "rsa", drop=["iat"]),
    "for ten years": sign("RS256", rsa_key, "rsa", exp=NOW + 10 * 365 * 86400),
    "RS256 without kid": sign("RS256", rsa_key),
    "small": sign("RS256", rsa_small, "rsa-small"),
    "next": sign("RS256", rsa_stranger, "next"),
}

keys = [
    rsa_jwk(rsa_key, kid="encryption", use="enc"),
    rsa_jwk(rsa_key, kid="signing", key_ops=["sign"]),
    rsa_jwk(rsa_key, kid="rsa-512", alg="RS512"),
    rsa_jwk(rsa_key, kid="rsa", use="sig"),
    rsa_jwk(rsa_large, kid="rsa-large", key_ops=["verify"]),
    jwk(ECAlgorithm, p256_key, kid="p256", use="sig", alg="ES256"),
    jwk(ECAlgorithm, p384_key, kid="p384"),
    jwk(ECAlgorithm, p521_key, kid="p521"),
    jwk(OKPAlgorithm, ed25519_key, kid="ed25519"),
    {"kty": "unheard of", "kid": "x"},
]

print(
    json.dumps(
        {
            "secret": SECRET,
            "jwks": {"keys": keys},
            "next_key": rsa_jwk(rsa_stranger, kid="next"),
            "small_key": rsa_jwk(rsa_small, kid="rsa-small"),
            "valid": valid,
            "invalid": invalid,
            "others": others,
        },
        indent=1,
    )
)
