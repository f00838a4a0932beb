"""Who is calling. Not called auth: authorize is the product's verb."""
