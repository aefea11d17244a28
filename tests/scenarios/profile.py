"""What the Python package `cryptography` reads in certificates (PEM files, leaf first), as one JSON line; it checks the
signatures too."""

import json
import sys

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

USAGES = [
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign",
]


def extension(cert, kind):
    try:
        found = cert.extensions.get_extension_for_class(kind)
        return found.value, found.critical
    except x509.ExtensionNotFound:
        return None, None


def read(cert):
    names, names_critical = extension(cert, x509.SubjectAlternativeName)
    usage, usage_critical = extension(cert, x509.KeyUsage)
    extended, _ = extension(cert, x509.ExtendedKeyUsage)
    constraints, constraints_critical = extension(cert, x509.BasicConstraints)
    own, _ = extension(cert, x509.SubjectKeyIdentifier)
    authority, _ = extension(cert, x509.AuthorityKeyIdentifier)
    key = cert.public_key()
    return {
        "version": cert.version.name,
        "serial_bits": cert.serial_number.bit_length(),
        "serial": f"{cert.serial_number:x}",
        "hash": cert.signature_hash_algorithm.name,
        "curve": key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else None,
        "subject": cert.subject.rfc4514_string(),
        "seconds": (cert.not_valid_after_utc - cert.not_valid_before_utc).total_seconds(),
        "uris": names.get_values_for_type(x509.UniformResourceIdentifier),
        "names": len(list(names)),
        "names_critical": names_critical,
        "usage": [name for name in USAGES if getattr(usage, name)],
        "usage_critical": usage_critical,
        "extended": sorted(
            {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}.get(oid, oid.dotted_string)
            for oid in extended or []
        ),
        "ca": constraints.ca,
        "path_length": constraints.path_length,
        "constraints_critical": constraints_critical,
        "own_key": own.digest.hex(),
        "authority_key": authority.key_identifier.hex(),
        "name_constraints": extension(cert, x509.NameConstraints)[0] is not None,
        "extensions": len(cert.extensions),
    }


certs = [cert for path in sys.argv[1:] for cert in x509.load_pem_x509_certificates(open(path, "rb").read())]
for cert, issuer in zip(certs, certs[1:] + certs[-1:]):
    cert.verify_directly_issued_by(issuer)
json.dump([read(cert) for cert in certs], sys.stdout)
