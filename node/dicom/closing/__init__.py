"""Whether a Series is whole: evidence, a verdict, and how long to wait for better."""
