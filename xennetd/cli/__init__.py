"""xennetctl."""
