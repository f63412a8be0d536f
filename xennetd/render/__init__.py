"""Pure text in the languages of other programs: nft(8) and dnsmasq(8)."""
