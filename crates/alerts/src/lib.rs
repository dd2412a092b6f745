//! Tells people: what is judged becomes alerts with a past, each leaves over every channel, and how that went is kept.

mod channel;
mod error;
mod fold;
mod lane;
mod memory;
mod message;
mod state;
mod teller;
mod view;

pub use channel::{Access, Alertmanager, Channel, MailTls, Named, PagerDuty, Slack, Smtp, Webhook};
pub use error::{AlertError, Undelivered};
pub use fold::{Judged, Kind, Notice, Patience, Sight, fold};
pub use lane::CHANNEL_DEAD;
pub use message::{Message, Source};
pub use state::{Alert, Delivery, Health, Key, State, Told};
pub use teller::{Setup, Teller, Tried};
pub use view::{AlertView, ChannelView, HeartbeatView, View};
