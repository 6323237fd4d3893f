"""What every program on Ray shares: starting or joining a cluster, elastic actor pools, plain errors, numbers."""
