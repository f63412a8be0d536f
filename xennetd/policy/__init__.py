"""What should be: TOML text becomes a Policy or Problems; a Policy, a Vif and the host's facts become an Attachment."""
