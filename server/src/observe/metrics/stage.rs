//! The stages of a request.

/// A stage of a request whose time is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Receiving the body.
    Read,
    /// Finding pictures and options in the body.
    Parse,
    /// Decoding and resizing a picture, waiting for a free decoder included.
    Decode,
    /// Waiting for a batch.
    Queue,
    /// Running the model on a batch.
    Encode,
    /// Reading and writing collections.
    Store,
    /// Making masks, pictures and JSON.
    Render,
    /// The whole request.
    Total,
}

impl Stage {
    pub(super) const ALL: [Self; 8] = [
        Self::Read,
        Self::Parse,
        Self::Decode,
        Self::Queue,
        Self::Encode,
        Self::Store,
        Self::Render,
        Self::Total,
    ];

    /// Those that a model's pictures pass.
    pub(super) const OF_MODELS: [Self; 5] =
        [Self::Decode, Self::Queue, Self::Encode, Self::Render, Self::Total];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Parse => "parse",
            Self::Decode => "decode",
            Self::Queue => "queue",
            Self::Encode => "encode",
            Self::Store => "store",
            Self::Render => "render",
            Self::Total => "total",
        }
    }
}
