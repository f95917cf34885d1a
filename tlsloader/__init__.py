"""Load, follow and prove identities; TLS in both directions, under gRPC."""

from tlsloader._acceptor import Acceptor
from tlsloader._allowfile import AllowlistFile, read_allowlist
from tlsloader._bundle import TrustBundle
from tlsloader._carried import Stay
from tlsloader._context import TLSVersion
from tlsloader._der import certificates_to_pem, key_to_pem
from tlsloader._dialer import Dialer
from tlsloader._endpoint import parse_endpoint
from tlsloader._errors import (
    AllowlistError,
    DialFailedError,
    ForkedError,
    InvalidMatcherError,
    InvalidSpiffeIDError,
    ListenError,
    MaterialError,
    PeerRefusedError,
    TLSLoaderError,
)
from tlsloader._handed import Handed, HandedSource
from tlsloader._jwt import JWTSVID, BundleDocument, JWTBundle
from tlsloader._kept import KeptSource
from tlsloader._matchers import Allowlist, Matcher, parse_matcher
from tlsloader._material import Material
from tlsloader._snapshot import BundlePaths, Paths
from tlsloader._source import FileSource, FixedSource, Source
from tlsloader._spiffe import SpiffeID, parse_trust_domain
from tlsloader._tally import Tally
from tlsloader._unix import UnixAcceptor
from tlsloader._verify import Peer, recheck, verify_peer

__all__ = [
    "JWTSVID",
    "Acceptor",
    "Allowlist",
    "AllowlistError",
    "AllowlistFile",
    "BundleDocument",
    "BundlePaths",
    "DialFailedError",
    "Dialer",
    "FileSource",
    "FixedSource",
    "ForkedError",
    "Handed",
    "HandedSource",
    "InvalidMatcherError",
    "InvalidSpiffeIDError",
    "JWTBundle",
    "KeptSource",
    "ListenError",
    "Matcher",
    "Material",
    "MaterialError",
    "Paths",
    "Peer",
    "PeerRefusedError",
    "Source",
    "SpiffeID",
    "Stay",
    "TLSLoaderError",
    "TLSVersion",
    "Tally",
    "TrustBundle",
    "UnixAcceptor",
    "certificates_to_pem",
    "key_to_pem",
    "parse_endpoint",
    "parse_matcher",
    "parse_trust_domain",
    "read_allowlist",
    "recheck",
    "verify_peer",
]
