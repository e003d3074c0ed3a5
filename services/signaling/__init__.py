"""The signaling service: introduces the peers of decentralized tasks and forwards their signals."""
