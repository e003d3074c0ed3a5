"""The load test: raw clients of two generations, backends over gRPC, and what the machine itself can do.

Nothing of Disco imports it, and it is not installed. docs/benchmarks.md says what it found.
"""
