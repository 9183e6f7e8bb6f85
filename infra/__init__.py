"""How it runs: on one machine without containers (`local`), in containers (`docker`), on many hosts (`kubernetes`)."""
