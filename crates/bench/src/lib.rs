//! Measures any model behind the contract.
