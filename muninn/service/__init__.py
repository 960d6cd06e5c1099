"""What shows a domain to others: readings of it, metrics, and what `keep` serves."""
