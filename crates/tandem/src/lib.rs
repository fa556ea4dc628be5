//! Local text generation on two engines held to the same answer.
