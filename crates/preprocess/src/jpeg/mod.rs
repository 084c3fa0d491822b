//! Parts of a JPEG that more than one decoder reads: what the segments say about colours and orientation, and the
//! Huffman-coded data (ITU-T T.81).

pub mod entropy;
pub mod segments;
