"""A shop that runs real orders through the engine while its processes are killed, and audits what came of it."""
