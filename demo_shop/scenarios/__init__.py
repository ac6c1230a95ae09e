"""What may befall a ride, a loan and a delivery: each is run on real parts, and held against the services' ledgers."""
