"""Load, follow and prove identities; TLS in both directions, under gRPC."""
