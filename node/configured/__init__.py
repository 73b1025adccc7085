"""What the configuration says, as the values that the parts of the node are made of."""
