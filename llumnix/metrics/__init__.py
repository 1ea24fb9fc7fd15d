"""What is measured: the catalogue of metrics, and the tally that counts them."""
