"""The local stack: real services as processes under a process manager."""
