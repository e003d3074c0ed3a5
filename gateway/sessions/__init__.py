"""What the gateway does for one socket, without the socket: no I/O, no clock, no frames."""
