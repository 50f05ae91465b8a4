//! Tables and properties of what should exist.

mod conditions;
mod json;
mod pods;
mod scene;
mod settle;
mod slices;
