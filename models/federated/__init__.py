"""Learning over hospitals that share no patient data: secure sums, strategies, transport."""
