"""Pure text in the languages of others: nft and dnsmasq."""
