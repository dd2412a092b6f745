//! What is so at this moment, gathered once, and the rules that say what of it somebody must be told.

pub mod facts;
mod rules;
mod words;

pub use facts::{Facts, Look, Trouble};
pub use rules::{RULES, judge, rpo_seconds};
