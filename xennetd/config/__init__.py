"""Configuration text to checked tables: TOML documents, where their keys stand, and what each key may hold."""
