"""Client generations: one codec each, and the rendering of tasks and models. Pure: no I/O, no clock."""
