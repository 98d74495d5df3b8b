//! OpenAI's API as types: what a request says, read with the name of each field that is wrong, and what replies look like.

mod chat;
mod error;
mod fields;
pub(crate) mod reply;
mod sampling;

pub(crate) use chat::{ChatRequest, CompletionRequest, PromptText};
pub(crate) use error::ApiError;
pub(crate) use fields::Fields;
pub(crate) use sampling::Choosing;
