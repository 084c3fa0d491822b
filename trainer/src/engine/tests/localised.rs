//! Tests of runs whose views are masked by what a checkpoint's network sees, of either kind.

use super::*;

/// Five settings of `Run` and one step, for which the kind of network is what counts.
fn trained(dir: &Path, name: &str, config: &Config) -> anyhow::Result<PathBuf> {
    let run = Run { stop_after: Some(1), ..settings(dir, name) };
    pretrain(config, &run)?;
    Ok(snapshot::locate(&run.out).expect("a checkpoint"))
}

#[test]
fn a_checkpoint_of_either_kind_localises_for_either_kind() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let dir = dir.path();
    let vit = trained(dir, "vit", &config(Recipe::Dino)).expect("trained");
    let resnet = trained(dir, "resnet", &config(Recipe::MocoV2)).expect("trained");
    let masked = |arch: &str, by: &Path, rule| {
        let mut c = Config { arch: arch.into(), ..config(Recipe::SaliencyMoco) };
        let m = c.masking.as_mut().expect("masked");
        (m.saliency, m.rule) = (Saliency::Checkpoint(by.to_owned()), rule);
        c
    };
    let transformer = "vit_64x2x2_patch16_32";
    for (name, arch, by, rule) in [
        ("1", "resnet18", &vit, MapRule::Attention),
        ("2", "resnet18", &vit, MapRule::Object),
        ("3", transformer, &vit, MapRule::Attention),
        ("4", transformer, &resnet, MapRule::Border),
    ] {
        trained(dir, name, &masked(arch, by, rule)).unwrap_or_else(|e| panic!("{name}: {e:#}"));
    }
    let refused =
        |name: &str, config: &Config| format!("{:#}", trained(dir, name, config).expect_err("refused"));
    let none = refused("5", &masked(transformer, &resnet, MapRule::Attention));
    assert!(none.contains("resnet18 has none") && none.contains(&resnet.display().to_string()), "{none}");
    let mut odd = masked("resnet18", &vit, MapRule::Attention);
    odd.image_size = 36;
    odd.masking.as_mut().expect("masked").stage = 4;
    let odd = refused("6", &odd);
    assert!(odd.contains("whole patches, and they have 36 px"), "{odd}");
}
