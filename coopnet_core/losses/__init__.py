"""Loss terms: error maps, masks and the rebalancing between the networks."""
