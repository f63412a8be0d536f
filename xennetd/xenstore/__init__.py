"""xenstore: the wire codec, an asyncio client, and the live directory of vifs."""
