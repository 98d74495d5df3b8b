//! What may look into one request and change it: the seam ([`Hook`]), the method, and what others do there.

pub(crate) mod farsight;
pub mod intervene;
pub mod method;
pub(crate) mod modality;
mod reduce;
mod row_map;
pub(crate) mod rows;
mod seam;
pub(crate) mod settings;
pub(crate) mod var;
mod views;

pub use row_map::RowMap;
pub use seam::{
    At, AttentionShape, Chain, Flow, Hook, Mask, Needs, Recorder, Rotation, attend, column_sums, find,
    row_lse,
};
pub(crate) use views::Wide;
pub use views::{Attention, HeadOutputs, Hidden, NewQkv};
