"""From configuration text to checked tables: TOML documents, the lines of their keys, and the valid values of a key."""
