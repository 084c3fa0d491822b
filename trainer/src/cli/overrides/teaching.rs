//! The flags of distillation: who is learnt from, and how.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::set;
use crate::cli::Unusable;
use crate::config::{Config, Recipe};
use crate::teacher;

/// Flags of distillation.
#[derive(Args, Debug, Default)]
pub(super) struct TeacherArgs {
    /// Learn the embeddings of this network, which sees whole pictures once: an ONNX file that the server accepts, or
    /// a checkpoint of Occlude or another project (distill)
    #[arg(long, value_name = "MODEL", conflicts_with = "targets")]
    teacher: Option<PathBuf>,
    /// Learn the embeddings in this Parquet file of `occlude-serve embed`, or in all such files of a folder, matched
    /// by the names of pictures (distill)
    #[arg(long, value_name = "EMBEDDINGS")]
    targets: Option<PathBuf>,
    /// Preprocessing of the teacher's pictures, if its file does not state it or to override it: a contract, a
    /// `preprocessor_config.json`, or a name like `dinov2` (distill)
    #[arg(long, value_name = "FILE", requires = "teacher")]
    teacher_contract: Option<String>,
    /// Weight of the loss that compares how similar pictures are to the student and to the teacher (distill)
    #[arg(long, value_name = "WEIGHT")]
    relation_weight: Option<f64>,
    /// Cells along a side of the teacher's grid that `--dense-weight` learns from, at most; a finer one is averaged. 8
    /// unless given (distill)
    #[arg(long, value_name = "CELLS", requires = "dense_weight")]
    dense_grid: Option<usize>,
}

impl TeacherArgs {
    /// Overrides what is given.
    ///
    /// # Errors
    /// Where the recipe has no teacher, or the file is none.
    pub(super) fn apply(self, recipe: Recipe, c: &mut Config) -> Result<()> {
        let given = self.teacher.is_some()
            || self.targets.is_some()
            || self.relation_weight.is_some()
            || self.dense_grid.is_some();
        let distill = c.method.distill_mut();
        ensure!(
            !given || distill.is_some(),
            "`--recipe {}` learns from no other network, but one of the flags for that was given; hint: `--recipe distill`",
            recipe.name()
        );
        let Some(settings) = distill else { return Ok(()) };
        set(&mut settings.relation_weight, self.relation_weight);
        if let Some(cells) = &mut settings.cells {
            set(&mut cells.grid, self.dense_grid);
        }
        if let Some(path) = self.teacher {
            settings.teacher =
                Some(teacher::network(&path, self.teacher_contract.as_deref()).map_err(Unusable)?);
        }
        if let Some(path) = self.targets {
            settings.teacher = Some(teacher::said(&path).map_err(Unusable)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::resolved as resolve;
    use crate::config::TeacherKind;
    use crate::model::Encoder;
    use std::path::Path;

    fn refused(flags: &str) -> String {
        format!("{:#}", resolve(flags).expect_err("refused"))
    }

    /// The weights of an encoder without anything about them.
    fn bare(path: &Path) {
        let encoder = Encoder::new(occlude_encoder::Arch::ResNet18, 0, tch::Device::Cpu);
        let named = encoder.named("");
        let out: anyhow::Result<Vec<_>> = named.iter().map(crate::engine::snapshot::to_out).collect();
        occlude_checkpoint::save_safetensors(
            path,
            &out.expect("tensors"),
            &std::collections::BTreeMap::new(),
        )
        .expect("written");
    }

    #[test]
    fn flags_of_distillation_reach_their_fields() {
        let _alone = crate::rng::alone();
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("weights.safetensors");
        bare(&path);
        let teacher = format!("--recipe distill --teacher {}", path.display());
        let message = refused(&teacher);
        assert!(message.contains("does not state") && message.contains("--teacher-contract"), "{message}");
        let with = |more: &str| {
            let mut c = resolve(&format!("{teacher} --teacher-contract imagenet {more}")).expect("valid");
            c.method.distill_mut().expect("distillation").clone()
        };
        let d = with("--relation-weight 0.5 --dim 99 --hidden 77 --head-bn false");
        assert_eq!((d.relation_weight, d.head.dim, d.head.hidden, d.head.bn), (0.5, 99, Some(77), false));
        let known = d.teacher.expect("a teacher");
        assert_eq!((known.kind, known.dim, &known.path), (TeacherKind::Checkpoint, Some(512), &path));
        assert_eq!(known.preprocess().expect("a contract").expect("one").crop, 224);
        assert_eq!(d.cells, None);
        assert_eq!(with("--dense-weight 0").cells, None);
        let cells = |more: &str| with(more).cells.map(|c| (c.weight, c.grid));
        assert_eq!(cells("--dense-weight 0.5"), Some((0.5, 8)));
        assert_eq!(cells("--dense-weight 2 --dense-grid 4"), Some((2.0, 4)));
        let other = resolve(&format!("{teacher} --teacher-contract dino")).expect("valid");
        let other = other.method.teacher().expect("a teacher").clone();
        assert_ne!(other.fingerprint, known.fingerprint, "a contract is a part of it");
    }

    #[test]
    fn what_is_no_teacher_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name).display().to_string();
        for (name, bytes) in
            [("a.onnx", &b"\x08\x09nothing"[..]), ("b.parquet", b"PAR1"), ("c.pth", b"nothing")]
        {
            std::fs::write(dir.path().join(name), bytes).expect("written");
        }
        for (flags, part) in [
            (format!("--recipe distill --teacher {}", path("gone.onnx")), "no teacher at"),
            (format!("--recipe distill --teacher {}", path("a.onnx")), "a.onnx"),
            (format!("--recipe distill --teacher {}", path("c.pth")), "c.pth"),
            (format!("--recipe distill --teacher {}", path("b.parquet")), "hint: `--targets"),
            (format!("--recipe distill --targets {}", path("b.parquet")), "not a Parquet file"),
            (format!("--recipe distill --targets {}", path("c.pth")), "not a Parquet file"),
            ("--recipe distill --teacher a --targets b".into(), "cannot be used with"),
            ("--recipe distill --dense-weight=-1".into(), "expected 0 or more"),
            ("--recipe distill --dense-weight 1 --dense-grid 99".into(), "--dense-grid 99"),
            ("--recipe distill --dense-grid 4".into(), "--dense-weight"),
            ("--recipe distill --dense-temperature 0.1".into(), "compares no patches"),
            ("--recipe ibot-dense --dense-weight 1 --dense-grid 4".into(), "hint: `--recipe distill`"),
            ("--recipe distill --queue 5".into(), "no momentum encoder"),
            ("--recipe distill --temperature 0.1".into(), "no softmax"),
            ("--recipe distill --num-nonsem 1".into(), "does not mask"),
            ("--recipe distill --masks true --num-nonsem 1".into(), "distillation has none"),
            ("--recipe distill --mix mixmask".into(), "MoCo and BYOL only"),
            ("--recipe distill --teacher x --teacher-contract nowhere.json".into(), "no teacher at"),
            (
                format!("--recipe distill --teacher {} --teacher-contract nowhere.json", path("c.pth")),
                "expected a file",
            ),
            ("--recipe moco-v2 --relation-weight 1".into(), "hint: `--recipe distill`"),
            (format!("--recipe byol --teacher {}", path("c.pth")), "hint: `--recipe distill`"),
        ] {
            assert!(refused(&flags).contains(part), "{flags}: {}", refused(&flags));
        }
        let masked = resolve("--recipe distill --masks true --guidance random").expect("valid");
        assert!(masked.method.lacks_teacher() && masked.masking.is_some_and(|m| m.num_nonsem == 0));
    }
}
