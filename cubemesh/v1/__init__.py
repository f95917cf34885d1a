"""The wire contract, generated from ``protos/cubemesh/v1``."""
