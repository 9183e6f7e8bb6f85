"""The REST routes, a file a resource."""
