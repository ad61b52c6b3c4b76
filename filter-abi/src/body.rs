//! A request's body that the proxy has collected, because the request's head hook asked for it.

use std::ops::Deref;

/// A request's body, as far as it was collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBody {
    /// What has come; empty for a request without a body.
    pub data: Vec<u8>,
    /// Whether this is all of it; otherwise the filter asked for [`OverMax::Continue`](crate::OverMax::Continue), and
    /// there is more.
    pub complete: bool,
}

impl HeldBody {
    /// A whole body.
    pub fn whole(data: impl Into<Vec<u8>>) -> Self {
        HeldBody {
            data: data.into(),
            complete: true,
        }
    }

    /// The beginning of a body.
    pub fn part(data: impl Into<Vec<u8>>) -> Self {
        HeldBody {
            data: data.into(),
            complete: false,
        }
    }
}

impl Deref for HeldBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data
    }
}
