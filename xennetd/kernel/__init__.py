"""The kernel: rtnetlink observed, watched and told."""
