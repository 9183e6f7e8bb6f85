"""From a drop in the bucket to rows that are judged: find, claim, inspect, validate."""
