"""xenstore: wire codec, asyncio client, the directory of vifs."""
