//! The ground for tests of failover itself: Patroni hands over, takes over, keeps the slot, and brings the dead back.

use testkit::{Acknowledged, PatroniCluster, Workload, full, newest_major};

/// The acknowledged rows that the leader does not have.
fn lost(acknowledged: &[Acknowledged], cluster: &PatroniCluster) -> Vec<i64> {
    let rows = cluster.psql("SELECT id FROM ledger");
    let there: std::collections::HashSet<i64> = rows.lines().map(|id| id.parse().unwrap()).collect();
    acknowledged.iter().map(|commit| commit.id).filter(|id| !there.contains(id)).collect()
}

fn timeline(cluster: &PatroniCluster) -> String {
    cluster.psql("SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)")
}

#[test]
fn a_cluster_under_patroni_survives_a_switchover_and_the_leaders_death() {
    let cluster = PatroniCluster::builder(newest_major()).synchronous().slot("bowline").start();
    let first = cluster.leader().expect("a leader");
    assert_eq!(timeline(&cluster), "00000001");

    let load = Workload::start(&cluster.conninfo());
    load.wait_for(20);
    let second = cluster.switchover();
    assert_ne!(first, second);
    let acknowledged = load.stop();
    assert!(acknowledged.len() >= 20);
    assert_eq!((lost(&acknowledged, &cluster), timeline(&cluster)), (vec![], "00000002".to_owned()));
    assert_eq!(cluster.psql("SELECT slot_type FROM pg_replication_slots WHERE slot_name = 'bowline'"), "physical");

    cluster.wait_for_replicas();
    let load = Workload::start(&cluster.conninfo());
    load.wait_for(20);
    assert_eq!(cluster.kill_leader(), second);
    let acknowledged = load.stop();
    assert_eq!(cluster.wait_for_leader(), first);
    assert_eq!((lost(&acknowledged, &cluster), timeline(&cluster)), (vec![], "00000003".to_owned()));
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'bowline'"), "1");

    if full() {
        cluster.start_node(second);
        cluster.wait_for_replicas();
        assert_eq!(cluster.psql_on(second, "SELECT pg_is_in_recovery()"), "t");
    }
}
