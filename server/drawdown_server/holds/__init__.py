"""The hot core: what a balance is, and who may hold how much of it."""
