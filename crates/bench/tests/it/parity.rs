//! Two engines are held to the same answer on the demo model and on every golden checkpoint, and faults that are put in are found.

mod agreement;
mod faults;
mod problems;
