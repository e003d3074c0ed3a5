"""The aggregator: collects contributions, adds them exactly and publishes versions."""
