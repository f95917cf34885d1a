"""Who may call what: policy over proven peers, and session tokens.

Policy::

    policy = Policy({"/cubemesh.v1.PicoD/*": Allowlist.parse(str(router_id))})
    peer_id = policy.require(method, peer.id if peer else None)   # or raises Denied
    principal = Principal.of(peer_id)

Router, ``--picod-auth-mode jwt``::

    keys = await SigningKeys.load(private, public, create=True)   # job: keys.rotate()
    signer = Signer(keys)
    metadata = ("authorization", f"Bearer {signer.token(session, sandbox, principal)}")

PicoD::

    public = await PublicKeys.load(path)                          # job: public.follow()
    verifier = Verifier(public, audience=sandbox_id)
    claims = verifier.verify(bearer(context.invocation_metadata()), session_id=bound)

Whoever is to take JWT-SVIDs::

    bundles = await JWTBundleSource.load(endpoint)               # job: bundles.follow()
    verifier = JWTSVIDVerifier(bundles, audience=own_id)
    peer_id = verifier.verify(bearer(context.invocation_metadata())).identity
"""

from auth._errors import (
    AuthError,
    Denied,
    InvalidPrincipalError,
    KeysError,
    TokenRefusedError,
)
from auth._keys import MAX_LIFE, SigningKeys
from auth._policy import Allow, Decision, Deny, Policy
from auth._principal import PRINCIPAL_METADATA, Principal
from auth._public import KeySet, PublicKeys
from auth._rehearsal import rehearse
from auth._svids import JWTBundles, JWTSVIDVerifier, VerifiedSVID
from auth._tokens import ISSUER, Claims, Signer, Verifier, bearer

__all__ = [
    "ISSUER",
    "MAX_LIFE",
    "PRINCIPAL_METADATA",
    "Allow",
    "AuthError",
    "Claims",
    "Decision",
    "Denied",
    "Deny",
    "InvalidPrincipalError",
    "JWTBundles",
    "JWTSVIDVerifier",
    "KeySet",
    "KeysError",
    "Policy",
    "Principal",
    "PublicKeys",
    "Signer",
    "SigningKeys",
    "TokenRefusedError",
    "VerifiedSVID",
    "Verifier",
    "bearer",
    "rehearse",
]
