"""Desired state: TOML text becomes a Policy or Problems; a Policy, a Vif and the host's facts become an Attachment.

A link or bridge is xennetd's *own* if it has the group BRIDGE_GROUP or GUEST_GROUP (`model.link.Link.is_own`).
"""
