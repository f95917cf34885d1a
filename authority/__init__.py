"""Make correct X509-SVIDs: the development CA and the CA of the sandboxes."""

from authority._authority import Authority, Issued
from authority._errors import AuthorityError, NotIssuableError
from authority._files import publish_bundle, write_identity

__all__ = [
    "Authority",
    "AuthorityError",
    "Issued",
    "NotIssuableError",
    "publish_bundle",
    "write_identity",
]
