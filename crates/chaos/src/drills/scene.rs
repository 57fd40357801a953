//! What every drill needs: a system, a client, and the questions at the end.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_lite::for_each_concurrent;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::figure::Figures;
use crate::campaign::Stage;
use crate::checker;
use crate::client::ApiClient;
use crate::counting::Temper;
use crate::facts::Lists;
use crate::history::{Entry, Record, Verdict};
use crate::resp::Client;
use crate::script::prompt;
use crate::sql::Sql;
use crate::system::Setup;
