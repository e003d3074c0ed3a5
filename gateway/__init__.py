"""The gateway: holds the sockets of the participants, and nothing that matters. Speaks to the services by gRPC only."""
