"""What should be: TOML text to Policy or Problems, and (Policy, Vif, host facts) to Attachment. Pure."""
