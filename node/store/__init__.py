"""What must survive a power cut: Series, Jobs, Deliveries. The only SQL of the product."""
