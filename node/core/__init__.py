"""Words and rules: job states, volumes, anatomy, errors, configuration."""
