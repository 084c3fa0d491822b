//! How a model makes its saliency map, as the file says.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a model's saliency map is made of its feature map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = SaliencyRule)]
pub struct MapRule {
    /// `sum`: the sum of all channels (SCDA). `border`: one less the cosine with the mean feature of the border's cells.
    /// `object`: what resembles the middle and not the border. Other names are those of later exporters.
    pub rule: String,
    /// Stage of the encoder whose feature map it is made of, 2 to 5.
    pub stage: u8,
    /// Default threshold of the foreground, in standard deviations from the mean of the map.
    pub deviations: f64,
}

/// Bounds of a threshold in standard deviations from the mean; no grid of a model's goes beyond.
pub(crate) const DEVIATIONS: (f64, f64) = (-100.0, 100.0);

/// Name of the rule that the output `saliency_sum` has, too.
const SUM: &str = "sum";

impl Default for MapRule {
    /// Of files that say nothing: the channel sum of the last stage, by the published threshold.
    fn default() -> Self {
        Self { rule: SUM.to_owned(), stage: 5, deviations: occlude_saliency::DEVIATIONS }
    }
}

impl MapRule {
    /// Reads the metadata; what a later exporter adds to it is left alone.
    pub(crate) fn read(json: Option<&str>) -> Result<Self, String> {
        let Some(json) = json else { return Ok(Self::default()) };
        let rule: Self = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let (low, high) = DEVIATIONS;
        if rule.rule.is_empty() {
            return Err("`rule` is empty".to_owned());
        }
        if !(2..=5).contains(&rule.stage) {
            return Err(format!("`stage` is {}: expected 2 to 5", rule.stage));
        }
        if !(low..=high).contains(&rule.deviations) {
            return Err(format!("`deviations` is {}: expected {low} to {high}", rule.deviations));
        }
        Ok(rule)
    }

    /// Whether it is the channel sum.
    pub(crate) fn is_sum(&self) -> bool {
        self.rule == SUM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_say_it_or_have_the_published_rule() {
        let none = MapRule::read(None).unwrap();
        assert_eq!((none.rule.as_str(), none.stage, none.deviations), ("sum", 5, -0.6));
        assert!(none.is_sum());
        let told = MapRule::read(Some(r#"{"rule":"border","stage":4,"deviations":0.0,"more":[1]}"#)).unwrap();
        assert_eq!(told, MapRule { rule: "border".to_owned(), stage: 4, deviations: 0.0 });
        assert!(!told.is_sum());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (json, why) in [
            ("border", "expected value"),
            (r#"{"rule":"border","stage":4}"#, "missing field `deviations`"),
            (r#"{"rule":"","stage":4,"deviations":0}"#, "`rule` is empty"),
            (r#"{"rule":"sum","stage":6,"deviations":0}"#, "`stage` is 6: expected 2 to 5"),
            (r#"{"rule":"sum","stage":5,"deviations":1e3}"#, "`deviations` is 1000: expected -100 to 100"),
        ] {
            let error = MapRule::read(Some(json)).unwrap_err();
            assert!(error.contains(why), "{json}: {error}");
        }
    }
}
