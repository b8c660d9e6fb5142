//! Conversations as text: the chat template that a model comes with.
//!
//! ```
//! use chaski_models::chat::{ChatTemplate, Message, RenderOptions, SpecialTokens};
//!
//! # fn main() -> Result<(), chaski_models::chat::ChatError> {
//! let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}";
//! let special = SpecialTokens { eos: Some("</s>".to_owned()), ..SpecialTokens::default() };
//! let template = ChatTemplate::new(source, special)?;
//! let messages = [Message::system("Be kind."), Message::user("Hello!")];
//! let text = template.render(&messages, &RenderOptions::default())?;
//! assert_eq!(text, "<system>Be kind.</s><user>Hello!</s>");
//! # Ok(())
//! # }
//! ```

mod error;
mod guard;
mod message;
mod python;
mod source;
mod template;

pub use error::{ChatError, Place};
pub use message::{Message, Moment, RenderOptions, SpecialTokens};
pub use source::TemplateSources;
pub use template::ChatTemplate;
