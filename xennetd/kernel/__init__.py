"""The kernel: a view of the links from rtnetlink, the execution of Steps, and adapters for host objects."""
