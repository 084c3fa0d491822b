//! Every name of transformers' `ResNetModel`, as transformers writes it; `transformers/names.py` made the lists.

use std::collections::BTreeMap;

use occlude_encoder::layout::{Naming, detect};
use occlude_encoder::{Arch, Graph};

#[test]
fn every_name_of_transformers_is_a_parameter_of_that_shape() {
    for (arch, list) in [
        (Arch::ResNet18, include_str!("transformers/resnet18.txt")),
        (Arch::ResNet50, include_str!("transformers/resnet50.txt")),
    ] {
        let rows: Vec<(&str, &str)> = list.lines().map(|l| l.split_once(' ').unwrap_or((l, ""))).collect();
        let layout = detect(rows.iter().map(|row| row.0), None).expect("an encoder");
        assert_eq!((layout.naming, layout.prefix.as_str()), (Naming::Transformers, ""));
        let name = |key: &str| layout.to_torchvision(key).unwrap_or_else(|| panic!("{key}"));
        let found: BTreeMap<String, String> =
            rows.iter().map(|(key, shape)| (name(key), (*shape).to_owned())).collect();
        assert_eq!(found.len(), rows.len(), "no two become one");
        let shape = |dims: &[usize]| dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let own = Graph::new(arch).params().into_iter().map(|p| (p.name, shape(&p.shape))).collect();
        assert_eq!(found, own, "{arch}");
    }
}
