"""The kernel: what tasks, rounds and refusals are. Standard library only, no I/O, no clock."""
