"""Make correct X509-SVIDs: the development CA and who issues to sandboxes."""

from authority._authority import Authority, Issued
from authority._cafiles import CAFiles, CATexts
from authority._errors import AuthorityError, NotIssuableError
from authority._files import publish_bundle, write_identity
from authority._issuer import CAIssuer, Issuer
from authority._rewrite import rewrite

__all__ = [
    "Authority",
    "AuthorityError",
    "CAFiles",
    "CAIssuer",
    "CATexts",
    "Issued",
    "Issuer",
    "NotIssuableError",
    "publish_bundle",
    "rewrite",
    "write_identity",
]
