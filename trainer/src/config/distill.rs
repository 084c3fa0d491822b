//! Distillation: a network learns the embeddings of another, which is not trained.

use std::path::PathBuf;

use occlude_preprocess::{ContractError, Preprocess};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Branch, Head, Invalid, Masking, check};

/// Towards the embeddings of a finished network, by cosine and by what they say of each other (arXiv 1904.05068, 1907.09682).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distill {
    /// Projection head; its outputs are as many as a target has numbers: at most, where the teacher has fewer.
    pub head: Head,
    /// Weight of the relational loss, beside that of one of the cosines.
    pub relation_weight: f64,
    /// What parts of a picture are to say, too; absent where only the whole is learnt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells: Option<Cells>,
    /// Who is learnt from; absent in the recipe alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Teacher>,
}

/// Targets of the cells of a view: the teacher's feature map or patch tokens where the view is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cells {
    /// Weight of their loss, beside that of one of the embeddings' cosines.
    pub weight: f64,
    /// The most cells along a side of the teacher's grid; a finer one is averaged.
    pub grid: usize,
    /// Numbers of a target, once they were seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// Channels of the teacher's grid, once they were seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
}

impl Cells {
    /// The most cells along a side that there may be: targets of all pictures are in memory.
    pub const MOST: usize = 32;

    /// With as many cells as a ResNet has of 224 px, and some more.
    pub fn weighted(weight: f64) -> Self {
        Self { weight, grid: 8, dim: None, channels: None }
    }

    fn validate(&self, teacher: Option<&Teacher>) -> Result<(), Invalid> {
        let (weight, grid, most) = (self.weight, self.grid, Self::MOST);
        check(weight > 0.0 && weight.is_finite(), || {
            format!("`--dense-weight {weight}`: expected 0 or more")
        })?;
        check((1..=most).contains(&grid), || format!("`--dense-grid {grid}`: expected 1 to {most} cells"))?;
        let rows = teacher.filter(|t| t.kind == TeacherKind::Embeddings);
        check(rows.is_none(), || {
            format!(
                "`--dense-weight {weight}`: `{}` holds one embedding of each picture and nothing of its parts; hint: `--teacher MODEL`, or leave the flag out",
                rows.map(|t| t.path.display().to_string()).unwrap_or_default()
            )
        })
    }
}

/// Where targets come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teacher {
    /// The file, or the folder of several that belong together.
    pub path: PathBuf,
    /// What it holds.
    pub kind: TeacherKind,
    /// How pictures become what the network sees; absent for embeddings, which were made of pictures already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<Value>,
    /// That of weights and contract, as every artefact of them has it; of a file without one that of its bytes.
    pub fingerprint: String,
    /// SHA-256 of all that decides the embeddings: two files of one fingerprint may be of different precision.
    pub identity: String,
    /// Numbers of an embedding, once they were seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
}

/// What a teacher's file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TeacherKind {
    /// A network for ONNX Runtime.
    Onnx,
    /// The weights of an encoder.
    Checkpoint,
    /// Embeddings with the names of their pictures.
    Embeddings,
}

impl Teacher {
    /// How pictures become what the network sees, where it is one.
    ///
    /// # Errors
    /// Where the value is no contract.
    pub fn preprocess(&self) -> Result<Option<Preprocess>, ContractError> {
        self.contract.as_ref().map(|json| Preprocess::from_json(&json.to_string())).transpose()
    }
}

impl Distill {
    pub(super) fn validate(&self, nonsem: usize) -> Result<(), Invalid> {
        let weight = self.relation_weight;
        check(weight >= 0.0 && weight.is_finite(), || {
            format!("`--relation-weight {weight}`: expected 0 or more")
        })?;
        self.cells.as_ref().map_or(Ok(()), |cells| cells.validate(self.teacher.as_ref()))?;
        check(nonsem == 0, || {
            format!(
                "`--num-nonsem {nonsem}`: hard negatives are negatives, and distillation has none; hint: `--num-nonsem 0`"
            )
        })
    }

    /// Whether the views that masks are for are there.
    pub(super) fn validate_masks(masking: &Masking, views: usize) -> Result<(), Invalid> {
        check(masking.branch != Branch::Key || views > 1, || {
            "`--branch key` masks the second view, and there is only one; hint: `--branch query`, or `--views 2`"
                .into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Recipe};
    use super::*;

    fn distilling(change: impl FnOnce(&mut Config)) -> Result<(), Invalid> {
        let mut config = Config::new(Recipe::Distill);
        change(&mut config);
        config.validate()
    }

    fn settings(c: &mut Config) -> &mut Distill {
        c.method.distill_mut().expect("distillation")
    }

    #[test]
    fn one_view_is_enough_and_what_has_no_meaning_is_refused() {
        assert_eq!(distilling(|_| ()), Ok(()));
        assert_eq!(distilling(|c| c.views[0].count = 3), Ok(()));
        let masked = |c: &mut Config| c.masking = Some(c.usual_masking().expect("masks"));
        assert_eq!(distilling(masked), Ok(()));
        type Change = fn(&mut Config);
        let cases: [(Change, &str); 10] = [
            (|c| settings(c).relation_weight = -1.0, "--relation-weight"),
            (|c| settings(c).relation_weight = f64::INFINITY, "--relation-weight"),
            (|c| settings(c).cells = Some(Cells::weighted(-1.0)), "`--dense-weight -1`"),
            (|c| settings(c).cells = Some(Cells::weighted(f64::NAN)), "--dense-weight"),
            (|c| settings(c).cells = Some(Cells { grid: 0, ..Cells::weighted(1.0) }), "`--dense-grid 0`"),
            (|c| settings(c).cells = Some(Cells { grid: 33, ..Cells::weighted(1.0) }), "1 to 32"),
            (|c| settings(c).head.dim = 1, "--dim"),
            (|c| c.masking = Config::new(Recipe::SaliencyMoco).masking, "distillation has none"),
            (|c| c.mixing = Config::new(Recipe::Mixmask).mixing, "MoCo and BYOL only"),
            (|c| c.views[0].size = Some(96), "[96] px"),
        ];
        for (change, part) in cases {
            let error = distilling(change).expect_err("refused").0;
            assert!(error.contains(part), "{error}");
        }
        let of_key = |c: &mut Config| {
            masked(c);
            c.masking.as_mut().expect("masked").branch = Branch::Key;
        };
        assert!(distilling(of_key).expect_err("refused").0.contains("--views 2"));
        assert_eq!(
            distilling(|c| {
                of_key(c);
                c.views[0].count = 2;
            }),
            Ok(())
        );
    }

    fn teacher(contract: &Preprocess) -> Teacher {
        Teacher {
            path: "t.onnx".into(),
            kind: TeacherKind::Onnx,
            contract: Some(serde_json::from_str(&contract.to_json()).expect("JSON")),
            fingerprint: "f".into(),
            identity: "i".into(),
            dim: None,
        }
    }

    /// Without them the JSON is that of the versions that knew none.
    #[test]
    fn cells_are_learnt_from_networks_alone_and_survive_json() {
        let plain = serde_json::to_value(Config::new(Recipe::Distill)).expect("JSON");
        assert!(plain["method"]["distill"].get("cells").is_none());
        let mut config = Config::new(Recipe::Distill);
        let cells = Cells { dim: Some(9), channels: Some(512), ..Cells::weighted(0.5) };
        settings(&mut config).cells = Some(cells);
        settings(&mut config).teacher = Some(teacher(&Preprocess::imagenet(96)));
        let json = serde_json::to_string(&config).expect("serialisable");
        assert_eq!(serde_json::from_str::<Config>(&json).expect("readable"), config);
        assert_eq!(config.validate(), Ok(()));
        settings(&mut config).teacher.as_mut().expect("one").kind = TeacherKind::Embeddings;
        let error = config.validate().expect_err("refused").0;
        assert!(error.contains("--dense-weight 0.5") && error.contains("t.onnx"), "{error}");
        assert!(error.contains("hint: `--teacher MODEL`"), "{error}");
    }

    #[test]
    fn a_teacher_survives_json_with_its_contract() {
        let contract = Preprocess::imagenet(96);
        let teacher = teacher(&contract);
        let mut config = Config::new(Recipe::Distill);
        settings(&mut config).teacher = Some(teacher.clone());
        let json = serde_json::to_string(&config).expect("serialisable");
        let read: Config = serde_json::from_str(&json).expect("readable");
        assert_eq!(read, config);
        assert_eq!(teacher.preprocess(), Ok(Some(contract)));
        let odd = Teacher { contract: Some(Value::Null), ..teacher };
        assert!(odd.preprocess().is_err());
    }
}
