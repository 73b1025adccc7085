"""`segnode demo`: a node, a small PACS, one real series, and what comes back."""
