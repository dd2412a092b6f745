//! A source that is a file: what was kept of one moment. For trying the page out, and for its tests.

use crate::Source;
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use watch::facts::RunFacts;
use watch::{Facts, Trouble};

/// What was so once.
#[derive(Debug, Deserialize)]
pub struct Kept {
    facts: Facts,
    alerts: Value,
    runs: Vec<RunFacts>,
    logs: BTreeMap<String, Vec<String>>,
    plan: Value,
}

impl Kept {
    /// Reads JSON of `facts`, `alerts`, `runs`, `logs` and `plan`.
    pub fn read(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The same as if it were so now.
    pub fn change(mut self, change: impl FnOnce(&mut Facts)) -> Self {
        change(&mut self.facts);
        self
    }
}

#[async_trait]
impl Source for Kept {
    fn facts(&self) -> Option<Arc<Facts>> {
        Some(Arc::new(self.facts.clone()))
    }
    async fn alerts(&self) -> Value {
        self.alerts.clone()
    }
    async fn runs(&self) -> Result<Vec<RunFacts>, Trouble> {
        Ok(self.runs.clone())
    }
    async fn log(&self, run: &str) -> Result<Option<Vec<String>>, Trouble> {
        Ok(self.logs.get(run).cloned())
    }
    async fn plan(&self, target: &str) -> Result<Value, Trouble> {
        let mut plan = self.plan.clone();
        if let Some(summary) = plan.get_mut("plan") {
            summary["target"] = Value::String(target.to_owned());
        }
        Ok(plan)
    }
}
