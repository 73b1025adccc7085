"""`segnode models add`: from what a person names to a Model of this node."""
