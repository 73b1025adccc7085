"""RT Structure Sets, and their gate."""
