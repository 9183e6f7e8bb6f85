"""Search for a better recipe on the validation split."""
