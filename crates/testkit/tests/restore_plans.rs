//! Plans over logs made here, of which every position and time is known: what a plan answers, and what it reads for that.

#[path = "restore_plans/around.rs"]
mod around;
#[path = "restore_plans/ground.rs"]
mod ground;
#[path = "restore_plans/instants.rs"]
mod instants;
#[path = "restore_plans/log.rs"]
mod log;
#[path = "restore_plans/names.rs"]
mod names;
#[path = "restore_plans/siblings.rs"]
mod siblings;
