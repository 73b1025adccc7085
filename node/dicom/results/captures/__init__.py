"""Pictures with outlines as Secondary Captures, and their gate."""
