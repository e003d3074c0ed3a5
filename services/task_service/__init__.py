"""The task service: keeps tasks, serves their models. Knows no round and no participant."""
