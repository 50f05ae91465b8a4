//! The rules one by one, the faults by name, and properties, all in simulated time.

mod faults;
mod peers;
mod properties;
mod rules;
mod sim;
