//! The store's own tests: each door against the real thing, and against things that go wrong.

#[path = "../../testkit/src/certificates.rs"]
mod certificates;
#[path = "../../testkit/src/conformance.rs"]
mod conformance;
#[path = "doors/disk.rs"]
mod disk;
#[path = "doors/fake.rs"]
mod fake;
#[path = "../../testkit/src/loopback.rs"]
mod loopback;
#[path = "doors/lost_answers.rs"]
mod lost_answers;
#[path = "doors/makes.rs"]
mod makes;
#[allow(dead_code, reason = "other rooms' tests use more of it")]
#[path = "../../testkit/src/s3.rs"]
mod s3;
#[path = "doors/server.rs"]
mod server;
#[path = "doors/site.rs"]
mod site;
#[allow(dead_code, reason = "other rooms' tests use more of it")]
#[path = "../../testkit/src/stand_in.rs"]
mod stand_in;
#[allow(dead_code, reason = "other rooms' tests use more of it")]
#[path = "../../testkit/src/stores.rs"]
mod stores;
#[path = "doors/trust.rs"]
mod trust;
#[path = "doors/versions.rs"]
mod versions;

fn path(text: &str) -> store::ObjectPath {
    store::ObjectPath::new(text).unwrap()
}
