"""How the processes of Disco talk to each other: settings, servers, channels, refusals on the wire.

Knows gRPC and the rule book; refuses to know Redis, blob stores, HTTP and what a
round is.
"""
