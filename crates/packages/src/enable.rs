//! Sets native replication up: first what there is to do, as data that can be printed, then one step after the other.

use crate::{PackagesError, Place, Settings};
use store::{Bucket, Fact, Outcome, ReplicationWish, Step};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The application's bucket.
    Primary,
    /// Its copy.
    Replica,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// In whose bucket it is done.
    pub side: Side,
    /// What the store is to be told there.
    pub step: Step,
}

/// What there is to do, and what stands in the way.
pub struct Enabling {
    primary: Bucket,
    replica: Bucket,
    /// In this order.
    pub tasks: Vec<Task>,
    /// Why something that is lacking cannot be done; nothing was touched then.
    pub obstacles: Vec<String>,
}

impl Enabling {
    /// Looks at both buckets. Changes nothing.
    pub async fn plan(settings: &Settings) -> Result<Self, PackagesError> {
        let replica = settings.replica.as_ref().ok_or(PackagesError::NoReplica)?;
        let (primary, replica) = (bucket(&settings.primary)?, bucket(replica)?);
        if primary.prefix() != replica.prefix() {
            let why =
                format!("Replication keeps keys as they are; the primary's prefix is {:?}, the replica's {:?}.", primary.prefix(), replica.prefix());
            return Err(PackagesError::NotReplicable { address: primary.address(), why });
        }
        let (state, copy) = (primary.state().await?, replica.state().await?);
        let is_minio = settings.replication_target.as_deref().is_some_and(|target| target.starts_with("arn:minio:"));
        let wish = ReplicationWish {
            role: settings.replication_role.clone(),
            destination: settings.replication_target.clone().unwrap_or_else(|| format!("arn:aws:s3:::{}", replica.name())),
            prefix: if primary.prefix().is_empty() { String::new() } else { format!("{}/", primary.prefix()) },
            kms_key: settings.replica_kms_key.clone(),
            existing_objects: is_minio,
        };
        let keeps = |versioning: &Fact<String>| versioning.known().map(String::as_str) == Some("Enabled");
        let mut tasks = Vec::new();
        // The copy first: a rule towards a bucket without versions is refused.
        for (side, versioning) in [(Side::Replica, &copy.versioning), (Side::Primary, &state.versioning)] {
            if !keeps(versioning) {
                tasks.push(Task { side, step: Step::Version });
            }
        }
        let (steps, mut obstacles) = wish.steps(Some(&state));
        if wish.role.is_none() && primary.is_aws() && !steps.is_empty() {
            obstacles.push(
                "AWS copies as a role: set [packages] replication_role to the ARN of one that may read the primary and write the replica".into(),
            );
        }
        tasks.extend(steps.into_iter().map(|step| Task { side: Side::Primary, step }));
        Ok(Self { primary, replica, tasks, obstacles })
    }

    /// Where a task is done.
    pub fn bucket(&self, side: Side) -> &Bucket {
        match side {
            Side::Primary => &self.primary,
            Side::Replica => &self.replica,
        }
    }

    /// What the rule leaves behind: objects that were there before it. AWS copies those by a batch operation only.
    pub fn leaves_existing_objects(&self) -> bool {
        self.tasks.iter().any(|task| matches!(&task.step, Step::Replicate(wish) if !wish.existing_objects))
    }

    /// Carries one task out.
    pub async fn carry_out(&self, task: &Task) -> Result<Outcome, PackagesError> {
        Ok(self.bucket(task.side).carry_out(&task.step).await?)
    }
}

fn bucket(place: &Place) -> Result<Bucket, PackagesError> {
    let address = place.url.split('?').next().unwrap_or_default().to_owned();
    Bucket::open(&place.url, &place.options)?
        .ok_or_else(|| PackagesError::NotReplicable { address, why: "Replication is between two buckets of S3.".to_owned() })
}
