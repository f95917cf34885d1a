"""How a gRPC service is hosted: told, started, watched over, drained, stopped."""
