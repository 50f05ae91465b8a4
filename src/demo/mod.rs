//! `portolan demo`.

mod backend;
mod figures;
mod line;
mod load;
mod report;
