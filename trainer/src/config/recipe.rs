//! The names of the recipes.

use serde::{Deserialize, Serialize};

/// A named set of hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// MoCo v2 (arXiv 2003.04297), published hyper-parameters
    MocoV2,
    /// MoCo v2 with saliency-guided masking and hard negatives (arXiv 2309.12757), published hyper-parameters
    SaliencyMoco,
    /// Saliency-guided masking for small images, small data and small budgets (docs/recipes.md)
    SaliencyMocoSmall,
    /// MoCo v2 with random masks in the manner of Masked Siamese ConvNets (arXiv 2206.07700): the baseline of
    /// saliency-moco
    MscnMoco,
    /// SimCLR (arXiv 2002.05709), published hyper-parameters
    Simclr,
    /// SimCLR for small images, small data and small budgets (docs/recipes.md)
    SimclrSmall,
    /// SimCLR with saliency-guided masking and hard negatives (arXiv 2309.12757)
    SaliencySimclr,
    /// MoCo v2 with MixMask (arXiv 2210.11456), published hyper-parameters
    Mixmask,
    /// MoCo v2 with Un-Mix (arXiv 2003.05438), published hyper-parameters
    Unmix,
    /// MoCo v2 with both (arXiv 2210.11456), published hyper-parameters
    #[serde(rename = "unmix+mixmask")]
    #[value(name = "unmix+mixmask")]
    UnmixMixmask,
    /// BYOL (arXiv 2006.07733), published hyper-parameters
    Byol,
    /// BYOL for small images, small data and small budgets (docs/recipes.md)
    ByolSmall,
    /// LEWEL on BYOL with an averaged normalisation (arXiv 2203.14898), published hyper-parameters
    LewelBEman,
    /// LEWEL on BYOL (arXiv 2203.14898), published hyper-parameters
    LewelB,
    /// LEWEL on MoCo v2 (arXiv 2203.14898)
    LewelM,
    /// LEWEL on BYOL for small images, small data and small budgets (docs/recipes.md)
    LewelSmall,
    /// DINO (arXiv 2104.14294), published hyper-parameters
    Dino,
    /// iBOT (arXiv 2111.07832), published hyper-parameters
    Ibot,
    /// iBOT with attention-guided masks (AttMask, arXiv 2203.12719), published hyper-parameters
    IbotAttmask,
    /// iBOT with a contrastive loss of the patches that are looked at, published hyper-parameters otherwise
    IbotDense,
    /// iBOT for small images, small data and small budgets (docs/recipes.md)
    IbotSmall,
    /// The embeddings of another network, `--teacher` or `--targets`, for small images, small data and small budgets
    /// (docs/recipes.md)
    Distill,
}

impl Recipe {
    /// The name as flags and metadata have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MocoV2 => "moco-v2",
            Self::SaliencyMoco => "saliency-moco",
            Self::SaliencyMocoSmall => "saliency-moco-small",
            Self::MscnMoco => "mscn-moco",
            Self::Simclr => "simclr",
            Self::SimclrSmall => "simclr-small",
            Self::SaliencySimclr => "saliency-simclr",
            Self::Mixmask => "mixmask",
            Self::Unmix => "unmix",
            Self::UnmixMixmask => "unmix+mixmask",
            Self::Byol => "byol",
            Self::ByolSmall => "byol-small",
            Self::LewelBEman => "lewel-b-eman",
            Self::LewelB => "lewel-b",
            Self::LewelM => "lewel-m",
            Self::LewelSmall => "lewel-small",
            Self::Dino => "dino",
            Self::Ibot => "ibot",
            Self::IbotAttmask => "ibot-attmask",
            Self::IbotDense => "ibot-dense",
            Self::IbotSmall => "ibot-small",
            Self::Distill => "distill",
        }
    }
}
