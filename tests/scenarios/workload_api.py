"""What an application does with the Python `spiffe` package: everything the Workload API has, as one JSON line; the SVID
as PEM files in the directory that is the second argument."""

import json
import sys

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import JwtSvid, TrustDomain, WorkloadApiClient

endpoint, directory, audience = sys.argv[1], sys.argv[2], sys.argv[3]
with WorkloadApiClient(socket_path=endpoint) as client:
    context = client.fetch_x509_context(timeout=20)
    svid = context.default_svid
    token = client.fetch_jwt_svid(audience={audience}, timeout=20)
    domain = svid.spiffe_id.trust_domain
    bundles = client.fetch_jwt_bundles(timeout=20)
    keys = bundles.get_bundle_for_trust_domain(domain)
    offline = JwtSvid.parse_and_validate(token.token, keys, {audience})
    online = client.validate_jwt_svid(token=token.token, audience=audience, timeout=20)
    try:
        client.validate_jwt_svid(token=token.token, audience="somebody else", timeout=20)
        refused = ""
    except Exception as error:  # any refusal will do; its words are looked at
        refused = str(error)
    roots = client.fetch_x509_bundles(timeout=20).get_bundle_for_trust_domain(domain).x509_authorities

with open(f"{directory}/cert.pem", "wb") as file:
    file.writelines(cert.public_bytes(Encoding.PEM) for cert in svid.cert_chain)
with open(f"{directory}/key.pem", "wb") as file:
    file.write(svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
with open(f"{directory}/bundle.pem", "wb") as file:
    file.writelines(cert.public_bytes(Encoding.PEM) for cert in roots)
print(json.dumps({
    "id": str(svid.spiffe_id),
    "serial": format(svid.leaf.serial_number, "x"),
    "chain": len(svid.cert_chain),
    "token": token.token,
    "offline": str(offline.spiffe_id),
    "online": str(online.spiffe_id),
    "audience": sorted(online.audience),
    "refused": refused,
    "keys": sorted(keys.jwt_authorities),
    "domains": sorted(str(known) for known in [TrustDomain(domain.name)]),
}))
