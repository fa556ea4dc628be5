//! Models: found, downloaded whole, verified, told apart, and chosen to fit the memory.
